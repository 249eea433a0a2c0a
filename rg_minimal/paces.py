"""How much to spend on a picture: names for the points of the front that `data/results/front.csv` holds.

    pictures, latents = sample(pipe, prompt, objectives, **DRAFT)

Both are settings of `guided_sample`. They were measured on the puppet model; on larger ones begin with `FULL`.
"""

DRAFT = {"num_inference_steps": 10, "inner_steps": 2}       # while something is being moved: many a second look
FULL = {"num_inference_steps": 25}                          # what is kept
