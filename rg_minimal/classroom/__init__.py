"""What stands in the classroom: figures, widgets, the studio and its recipes, exercises, the checks of notebooks' parameters."""
