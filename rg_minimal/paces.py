"""How much to spend on a picture: names for the points of the front that `data/results/front.csv` holds.

    pictures, latents = sample(pipe, prompt, objectives, **DRAFT)

Each is settings of `guided_sample` and was measured on the puppet model (`python -m rg_minimal.puppets.front`): `DRAFT` and `FULL`
for poses, depth, edges and looks, `WHOLE` for pictures without guidance (under guidance it costs control; a finer decoder, which costs
nothing, is in `puppets.decoder`), `DRAG_FULL` for drags.
A drag runs as many steps as its source did, and brings settings of its own, which those of the pace go over:

    pictures, latents = sample(pipe, prompt, **drag(head, source, handles, targets, anatomy=pose) | DRAG_FULL)

Of a picture of 25 steps it comes as near with moves of 0.1 (`puppets.editing.HELD`), for twice the passes.
"""

# while something is being moved: few steps, which begin at the very noise, with two longer moves at each guided one
DRAFT = {"num_inference_steps": 8, "inner_steps": 2, "step_size": 0.07, "timestep_spacing": "trailing"}
FULL = {"num_inference_steps": 25}                          # what is kept
WHOLE = {"num_inference_steps": 50, "eta": 1.0}             # left alone: new noise at each step, with which the model mends more of what it drew wrong
DRAG_FULL = {"num_inference_steps": 15, "moves": "prediction", "step_size": 0.8}    # a drag that is kept: a pass less a step
