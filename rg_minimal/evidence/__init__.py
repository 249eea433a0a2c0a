"""The evidence: what Readout Guidance is worth beside networks that are trained for control, in a world with exact
labels.

    seeds       who may see which scenes: ranges that cannot meet
    baselines   ControlNet, T2I-Adapter, heads, a detector, a linear readout: trained on the same labelled pictures
    contest     all of them on the same captions, poses, maps and noise; one row is one picture
    statistics  paired intervals, labels needed, Frechet distance

`python -m rg_minimal.evidence --help` has the commands; all go on where they stopped.
"""
