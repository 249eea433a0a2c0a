"""The world that the method is tried on: `world.py` and what was made for it (model, judge, heads, edits, measurements)."""
from .world import (ACTIONS, ATTRIBUTES, BACKGROUNDS, COLOURS, HELD_OUT, JOINTS, LIMBS, LOOKS, PART, PARTS, PROPS, SIZE, SKINS, Frames, Limb,
                    Pose, Puppet, Scene, caption, correspondences, render, sample_pair, sample_pose, sample_puppet, sample_scene,
                    sample_scenes, sample_triplet, skeleton, stream, training_caption, vocabulary)
