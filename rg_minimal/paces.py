"""How much to spend on a picture: names for the points of the front that `data/results/front.csv` holds.

    pictures, latents = sample(pipe, prompt, objectives, **DRAFT)

Each is settings of `guided_sample`; `DRAFT` and `FULL` were measured on the puppet model, for poses (`python -m
rg_minimal.puppets.front`), `DRAG_FULL` is a guess until its drags are. A drag runs as many steps as its source did.
"""

# while something is being moved: few steps, which begin at the very noise, with two longer moves at each guided one
DRAFT = {"num_inference_steps": 8, "inner_steps": 2, "step_size": 0.07, "timestep_spacing": "trailing"}
FULL = {"num_inference_steps": 25}                          # what is kept
DRAG_FULL = {"num_inference_steps": 20, "inner_steps": 2}   # a drag that is kept
