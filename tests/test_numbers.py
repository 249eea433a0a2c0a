"""Every number in the README and the cards is one that was measured, and stored, or is exempt for a reason that is said here.

`READ` has a text's own words with holes, `{file#key/key:format}`, for what `data/results`, a config or the code itself holds.
`EXEMPT` has what is no measurement: names, shapes, settings. A number that neither knows fails, and so do words in either
that no text has any more. Of module docstrings and notebooks, the sentences that quote a result are in `READ` as well.
"""
import contextlib
import io
import json
import math
import re
import struct
from functools import cache, partial
from pathlib import Path

import nbformat
import pytest
import torch

import rg_minimal
from rg_minimal.classroom.drafts import LIVE
from rg_minimal.evidence import report
from rg_minimal.evidence.statistics import shared_by
from rg_minimal.paces import DRAFT, DRAG_FULL, FULL, WHOLE
from rg_minimal.pipelines import load_pipeline
from rg_minimal.puppets import decoder, heads, judge, previews, transformer, vocabulary, world
from rg_minimal.puppets.editing import HELD, LOOKS
from rg_minimal.puppets.front import ANEW, POINTS, bootstrap, compare, read_front, summarize
from rg_minimal.saving import ReadoutHead
from write_numbers import write, write_claim

ROOT = Path(__file__).resolve().parent.parent
TEXTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", *(ROOT / "data").rglob("README.md")))
COUNT = "zero one two three four five six seven eight nine ten eleven twelve thirteen".split()
NUMBER = r"\d+(?:[.,]\d+)*(?:e-?\d+)?"

# ---- what was measured -----------------------------------------------------------------------------------------------

READ = {"README.md": [
    "pose guidance, {pose#pictures} held-out poses and captions, {pose#steps} steps, default settings",
    "(PCK@0.05) | **{pose#guided/pck@0.05:.3f}**, unguided {pose#unguided/pck@0.05:.3f} |",
    "(PCK@0.1) | **{pose#guided/pck@0.1:.3f}**, unguided {pose#unguided/pck@0.1:.3f} |",
    "still right under guidance | {pose#guided/attribute_accuracy:.3f}, unguided {pose#unguided/attribute_accuracy:.3f} |",
    "found under guidance | {pose#guided/all_joints_found:.0%} %, unguided {pose#unguided/all_joints_found:.0%} % |",
    "half of {cost#steps} steps guided | **{cost#process_time_ratio/guided:.2f}** times an unguided one (process time); "
    "{cost#wall_seconds/guided:.1f} s against {cost#wall_seconds/unguided:.1f} s, peak memory {cost#peak_memory_mb:.0f} MB |",
    "base model, {base#captions} held-out captions: attributes right | {base#attribute_accuracy/mean:.3f} |",
    "the confidence of real renderings | {base#all_joints_found:.1%} % (of renderings {judge#figures/rendered/found:.1%} %) |",
    "autoencoder | {base#vae_psnr_db:.1f} dB |",
    "depth guidance, {depth#pictures} held-out maps: the judge's depth RMSE against the map | **{depth#guided/depth_rmse:.3f}**, "
    "unguided {depth#unguided/depth_rmse:.3f} |",
    "edge guidance, {edges#pictures} held-out maps: the judge's edge F-score | **{edges#guided/edge_f_score:.2f}**, "
    "unguided {edges#unguided/edge_f_score:.2f} |",
    "pose head, PCK@0.05 on held-out renderings at t = 100, 500, 750 | {heads/pose#extra/pck@0.05/100:.3f}, "
    "{heads/pose#extra/pck@0.05/500:.3f}, {heads/pose#extra/pck@0.05/750:.3f}; from {code#few} labelled pictures "
    "{heads/pose#extra/pck@0.05 from 100 pictures/100:.3f}, {heads/pose#extra/pck@0.05 from 100 pictures/500:.3f}, "
    "{heads/pose#extra/pck@0.05 from 100 pictures/750:.3f} |",
    "correspondence head, PCK@0.1 at t = 100, 500; the best raw layer | {heads/correspondence#extra/pck@0.1/100:.3f}, {heads/correspondence#extra/pck@0.1/500:.3f}; "
    "{heads/correspondence#extra/pck@0.1 from raw features, best layer/100:.3f}, "
    "{heads/correspondence#extra/pck@0.1 from raw features, best layer/500:.3f} |",
    "held-out triplets right at t = 100, 500; the best raw layer | {heads/appearance#extra/triplet accuracy/100:.3f}, {heads/appearance#extra/triplet accuracy/500:.3f}; "
    "{heads/appearance#extra/triplet accuracy from raw features, best layer/100:.3f}, "
    "{heads/appearance#extra/triplet accuracy from raw features, best layer/500:.3f} |",
    "in the skin, the shirt, the trousers or the hat alone, t = 100 | "
    + ", ".join(f"{{heads/appearance#extra/triplet accuracy from 1280 triplets, {look} alone differs/100:.3f}}"
                for look in ("skin", "shirt", "trousers", "hat")) + " |",
    "identity, {identity#pictures} references", "**{identity#guided/agreement:.3f}**, unguided {identity#unguided/agreement:.2f}; in a pose "
    "that is asked for as well **{identity#posed and guided/agreement:.3f}**, posed alone {identity#posed/agreement:.2f} |",
    "one arrow, {arrows#n} of them, on wrists, elbows, ankles, heads, bodies and props, {arrows#steps} steps",
    "with all that it takes hold of | **{arrows#grabbed/left:.2f}**, the bare arrow {arrows#bare/left:.2f} |",
    "every limb as long as before | {arrows#grabbed/whole:.0%} %, the bare arrow {arrows#bare/whole:.0%} %: no difference can be told, see below |",
    "Of single arrows {whole arrows#all/grabbed/count} of {arrows#n} leave one whole puppet where all is grabbed that they hold (95 % from "
    "{whole arrows#all/grabbed/low:.0f} to {whole arrows#all/grabbed/high:.0f}), of bare ones {whole arrows#all/bare/count} "
    "({whole arrows#all/bare/low:.0f} to {whole arrows#all/bare/high:.0f}). In the same {arrows#n} cases that is {whole arrows#all/more:.0f} more, "
    "with 95 % from {whole arrows#all/fewer:.0f} fewer to {whole arrows#all/most:.0f} more: no difference can be told.",
    "the way, of which {arrows#grabbed/left:.2f} is left against {arrows#bare/left:.2f}.",
    *(f"{words} ({{whole arrows#{kind}/grabbed/count}} and {{whole arrows#{kind}/bare/count}} of {{whole arrows#{kind}/n}})" for words, kind in (
        ("more of wrists", "wrist"), ("of bodies", "body"), ("fewer of heads", "head"), ("of ankles", "ankle"), ("of props", "prop"))),
    "Elbows are the hardest, {whole arrows#elbow/grabbed/count} and {whole arrows#elbow/bare/count} of {whole arrows#elbow/n}; grabbed that is "
    "{arrows#kinds/elbow/grabbed/whole:.0%} %, with 95 % from {whole arrows#elbow/grabbed/low:.0f} to {whole arrows#elbow/grabbed/high:.0f}.",
    "drag, {drag#cases} generated pictures (wrists, ankles, whole puppets, balls), {drag#steps} steps: where the handle ended, from its "
    "target | **{drag#distance:.1f} px**, before {drag#initial_distance:.1f} px |",
    "time | {drag#whole:.0%} %; {drag#attribute_accuracy:.3f}; {drag#fidelity:.3f}; {times#drag/seconds} s a picture on two threads |",
    "the same, {drag-paces#drag full/cases} of each, at the pace `DRAG_FULL`, {drag-paces#drag full/steps} steps: the target; whole; time | "
    "**{drag-paces#drag full/distance:.1f} px**; {drag-paces#drag full/whole:.0%} %; **{drag-paces#drag full/seconds:.1f} s** on two threads; in pictures of "
    "{drag-paces#full, held/steps} steps with the longer moves of the studio and of notebook 7 {drag-paces#full, held/distance:.1f} px; "
    "{drag-paces#full, held/whole:.0%} %; {drag-paces#full, held/seconds:.1f} s |",
    "whole | {drag-paces#drag full/kinds/ankle/whole:.0%} % at `DRAG_FULL`, {drag-paces#full, held/kinds/ankle/whole:.0%} % in {drag-paces#full, held/steps} steps",
    "drag, {drag-inverted#cases} rendered and inverted pictures (wrists, ankles, whole puppets, props) | **{drag-inverted#distance:.1f} px**, "
    "before {drag-inverted#initial_distance:.1f} px; {drag-inverted#whole:.0%} %; {drag-inverted#attribute_accuracy:.3f}; "
    "{drag-inverted#fidelity:.3f} |",
    "five objectives, one of each head, against one: process time of a picture | {combination#process_time_ratio:.2f} times |",
    "inversion and back, {inversion#pictures} rendered pictures, guidance scale 1, against the autoencoder's round trip | "
    "{inversion#0 iterations/psnr_db:.0f} dB (the worst {inversion#0 iterations/worst_db:.1f}); {inversion#1 iterations/psnr_db:.0f} dB with",
    "{transformer#pictures} held-out poses, {transformer#steps} Euler steps: PCK@0.05, PCK@0.1 | **{transformer#guided/pck@0.05:.3f}**, unguided "
    "{transformer#unguided/pck@0.05:.3f}; {transformer#guided/pck@0.1:.3f}, unguided {transformer#unguided/pck@0.1:.3f} |",
    *(f"(notebooks/{name}.ipynb) | … | {{notebooks#notebooks/{name}/seconds:.0f}} s |"
      for name in sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))),
    "a way to sample {front#pose/draft/pictures} pictures of held-out poses and captions, {code#front seeds} seeds (unguided with {code#longer/0}, "
    "{code#longer/1} and {code#longer/2} steps, and with new noise at each step, {front#none/50 steps/pictures} pictures, {code#longer seeds} seeds), with its 95 % interval; "
    "{code#passes of 50} passes of the denoiser", "of the same {front#pose/full/pictures} poses |",
    *(f"{words} | {{front#pose/{point}/control:.3f}} | {{front#pose/{point}/whole:.0%}} % | {strong}{{front#pose/{point}/cost:.2f}}{strong} |"
      for words, point, strong in (("`DRAFT`, {code#draft} trailing steps with {code#draft moves} longer moves each: a first look", "draft", "**"),
                                   ("`FULL`, {code#full} steps: what is kept, and the default", "full", ""), ("| 50 steps", "50 steps", ""),
                                   ("the authors' settings, 50 steps", "reference", ""))),
    "{front#depth/draft/pictures} held-out depth maps: RMSE | {front#depth/draft/control:.3f} | {front#depth/full/control:.3f} | "
    "{front#depth/50 steps/control:.3f} | {front#depth/reference/control:.3f} |",
    "{front#edges/draft/pictures} of edges: F-score | {front#edges/draft/control:.3f} | {front#edges/full/control:.3f} | "
    "{front#edges/50 steps/control:.3f} | {front#edges/reference/control:.3f} |",
    "{front#identity/draft/pictures} references: looks that agree | {front#identity/draft/control:.3f} | {front#identity/full/control:.3f} | "
    "{front#identity/50 steps/control:.3f} | {front#identity/reference/control:.3f} |",
    "Of the {front#identity/draft/pictures} references {front#identity/draft/whole:.0%} % (`DRAFT`), {front#identity/full/whole:.0%} % (`FULL`) and "
    "{front#identity/50 steps/whole:.0%} % ({code#50} steps, with 95 % from {whole looks#front/low:.0f} to {whole looks#front/high:.0f}) are whole "
    "puppets, of the hundred in the table above {identity#guided/all_joints_found:.0%} % ({whole looks#identity/low:.0f} to {whole looks#identity/high:.0f}).",
    "A drag ({front#drag/full/pictures} of them, wrists, ankles, puppets and props) runs {code#drag} steps and moves what is predicted as "
    "`DRAG_FULL`: it ends {front#drag/full/control:.1f} px from its target, {front#drag/full/whole:.0%} % whole, for "
    "**{front#drag/full/cost:.2f}** unguided pictures; {code#50} steps end {front#drag/50 steps/control:.1f} px from it, "
    "{front#drag/50 steps/whole:.0%} % whole, for {front#drag/50 steps/cost:.2f}; the authors' settings, with the correspondence head alone, "
    "{front#drag/reference/control:.1f} px, {front#drag/reference/whole:.0%} % whole, for {front#drag/reference/cost:.2f}",
    "drag a picture of {code#full} steps, and so run {code#full}, with moves of {code#held}: {front#drag/25 steps, step_size=0.1/control:.1f} px, "
    "{front#drag/25 steps, step_size=0.1/whole:.0%} % whole, for {front#drag/25 steps, step_size=0.1/cost:.2f}. In pairs `DRAG_FULL` has "
    "{pairs#drags/fewer:.1f} points fewer whole puppets than these, with 95 % from {pairs#drags/fewer_high:.1f} fewer to {pairs#drags/more:.1f} more "
    "({pairs#drags/differ:.0f} pairs differ,",
    "New noise at each step, with {code#full} steps, costs depth ({front#depth/25 steps, eta=1.0/control:.3f}) and edges "
    "({front#edges/25 steps, eta=1.0/control:.3f}) control",
    "in the two hundred of the table above {drag-paces#drag full/whole:.0%} % against {drag-paces#full, held/whole:.0%} % are whole.",
    "Guided until 0.8 of the steps, depth ({front#depth/25 steps, until 0.8/control:.3f}) and edges ({front#edges/25 steps, until 0.8/control:.3f}) come "
    "as near as with {code#50} steps, for {front#depth/25 steps, until 0.8/cost:.2f} in place of {front#depth/50 steps/cost:.2f}; looks, which are given until "
    "{code#looks until} of them, then agree less ({front#identity/25 steps, until 0.8/control:.3f}).",
    "tear puppets that are given looks: {front#identity/12 steps, on the prediction/whole:.0%} % whole",
    "`FULL` takes {cost#process_time_ratio/full:.2f} and `DRAFT` **{cost#process_time_ratio/draft:.2f}** of it",
    "by drafts of {code#live passes} passes", "have their picture after **{live#pose/first frame/median:.2f} s**, 95 % after "
    "{live#pose/first frame/95 %:.2f} s; of an arrow half after {live#drag/first frame/median:.2f} s, 95 % after {live#drag/first frame/95 %:.2f} s",
    "half of all movements wait {live#pose/target/median:.1f} s for a whole draft or that picture, of an arrow {live#drag/target/median:.1f} s",
    "the same {pose-paces#draft/pictures} poses at the pace `DRAFT`: PCK@0.05; attributes right; all joints found; and at `FULL` | "
    "**{pose-paces#draft/guided/pck@0.05:.3f}**; {pose-paces#draft/guided/attribute_accuracy:.3f}; {pose-paces#draft/guided/all_joints_found:.0%} %; "
    "{pose-paces#full/guided/pck@0.05:.3f}; {pose-paces#full/guided/attribute_accuracy:.3f}; {pose-paces#full/guided/all_joints_found:.0%} % |",
    "Without guidance {code#full} steps, the default, show as many whole puppets as {pairs#25/steps} do: in {pairs#25/pairs} pairs of the same caption",
    "caption and noise {pairs#25/whole:.1f} points more, with 95 % from {pairs#25/fewer:.1f} fewer to {pairs#25/whole_high:.1f} more",
    "Against {code#whole} steps as they are, new noise at each of them (`WHOLE`) shows {pairs#whole/whole:.1f} points more, with 95 % from "
    "{pairs#whole/whole_low:.1f} to {pairs#whole/whole_high:.1f} more", "costs control (PCK@0.05 {front#pose/whole/control:.3f} of the same poses)",
    "the same at the pace `WHOLE`, {code#whole} steps with new noise at each | **{base-noise#all_joints_found:.1%} %** |",
    "of the same latents | {base-decoder#as it is/all_joints_found:.1%} %, **{base-decoder#new noise/all_joints_found:.1%} %** |",
    "makes {base-decoder#new noise/only_by_the_finer} of the {base-decoder#captions} pictures with new noise whole that the pipeline's own does "
    "not, and loses {base-decoder#new noise/only_by_the_own}.",
    "| Stable Diffusion 1.5, {true-sizes#sd15/pixels} pixels | {true-sizes#sd15/million_weights:.0f} M | {true-sizes#sd15/predicted_gb/unguided:.1f} | {true-sizes#sd15/predicted_gb/plain:.1f} | {true-sizes#sd15/predicted_gb/lean:.1f} | {true-sizes#sd15/predicted_gb/least:.1f} | {true-sizes#sd15/predicted_gb/reference:.1f} | {true-sizes#sd15/fits/6} | {true-sizes#sd15/fits/8} | {true-sizes#sd15/fits/16} | {true-sizes#sd15/fits/24} |",
    "| Stable Diffusion 2.1, {true-sizes#sd21/pixels} pixels | {true-sizes#sd21/million_weights:.0f} M | {true-sizes#sd21/predicted_gb/unguided:.1f} | {true-sizes#sd21/predicted_gb/plain:.1f} | {true-sizes#sd21/predicted_gb/lean:.1f} | {true-sizes#sd21/predicted_gb/least:.1f} | {true-sizes#sd21/predicted_gb/reference:.1f} | {true-sizes#sd21/fits/6} | {true-sizes#sd21/fits/8} | {true-sizes#sd21/fits/16} | {true-sizes#sd21/fits/24} |",
    "| SDXL, {true-sizes#sdxl/pixels} pixels | {true-sizes#sdxl/million_weights:.0f} M | {true-sizes#sdxl/predicted_gb/unguided:.1f} | {true-sizes#sdxl/predicted_gb/plain:.1f} | {true-sizes#sdxl/predicted_gb/lean:.1f} | {true-sizes#sdxl/predicted_gb/least:.1f} | {true-sizes#sdxl/predicted_gb/reference:.1f} | {true-sizes#sdxl/fits/6} | {true-sizes#sdxl/fits/8} | {true-sizes#sdxl/fits/16} | {true-sizes#sdxl/fits/24} |",
    "| SD3 medium, {true-sizes#sd3-medium/pixels} pixels | {true-sizes#sd3-medium/million_weights:.0f} M | {true-sizes#sd3-medium/predicted_gb/unguided:.1f} | {true-sizes#sd3-medium/predicted_gb/plain:.1f} | {true-sizes#sd3-medium/predicted_gb/lean:.1f} | {true-sizes#sd3-medium/predicted_gb/least:.1f} | {true-sizes#sd3-medium/predicted_gb/reference:.1f} | {true-sizes#sd3-medium/fits/6} | {true-sizes#sd3-medium/fits/8} | {true-sizes#sd3-medium/fits/16} | {true-sizes#sd3-medium/fits/24} |",
    "| FLUX dev, {true-sizes#flux-dev/pixels} pixels | {true-sizes#flux-dev/million_weights:.0f} M | {true-sizes#flux-dev/predicted_gb/unguided:.1f} | {true-sizes#flux-dev/predicted_gb/plain:.1f} | {true-sizes#flux-dev/predicted_gb/lean:.1f} | {true-sizes#flux-dev/predicted_gb/least:.1f} | {true-sizes#flux-dev/predicted_gb/reference:.1f} | {true-sizes#flux-dev/fits/6} | {true-sizes#flux-dev/fits/8} | {true-sizes#flux-dev/fits/16} | {true-sizes#flux-dev/fits/24} |",
    "against the same step in the authors' way, a `lean` step of Stable Diffusion 1.5 takes **{true-sizes#sd15/measured/of_reference/lean/time:.2f}** of the time and **{true-sizes#sd15/measured/of_reference/lean/memory:.2f}** of the memory",
    "against an unguided step {true-sizes#sd15/measured/of_unguided/lean/time:.1f} times the time",
    "below resident memory by at most {true-sizes#sdxl/measured/prediction_below_resident:.1%} % for SDXL and {true-sizes#sd15/measured/prediction_below_resident:.1%} % for Stable Diffusion 1.5",
], "data/examples/README.md": [
    "each kind of the {drag#cases} that are measured | |", "the first seven of the {identity#pictures} that are measured | | `depth.png`",
    "with `edges`: the first seven of the {depth#pictures} that are measured |",
    "those of the {base-decoder#captions} pictures with new noise",
], "data/puppet-diffusion/README.md": [
    "*32 uncurated samples: … the noise of its seed, {base#steps} DDIM steps, guidance scale {base#guidance_scale:g}.*",
    "channels {vae#block_out_channels/0}, {vae#block_out_channels/1}, {vae#block_out_channels/2}, factor 4, latents "
    "(B, {vae#latent_channels}, 32, 32) of standard deviation 1 in every channel | {bytes#vae:.2f}M |",
    "channels {unet#block_out_channels/0}, {unet#block_out_channels/1}, {unet#block_out_channels/2}, one layer a block … | {bytes#unet:.2f}M |",
    "width {text_encoder#hidden_size}, {text_encoder#num_hidden_layers} layers, {text_encoder#max_position_embeddings} tokens | "
    "{bytes#text_encoder:.1f}M |",
    "word level, {code#words} words", "fp16 safetensors, {bytes#all:.0f} MB in all", "held-out scenes have seeds from {code#held out:_} on",
    "then {second run#pictures:_}, then {recipe#pictures:_} for the diffusion model", "AdamW 1.5e-3 | {times#base model/minutes/autoencoder} min |",
    "| latents | 20 480 pictures rendered and encoded | {times#base model/minutes/latents} min |",
    "first run | … | {times#base model/minutes/first run} min |",
    "as many new ones | {second run#pictures:_} pictures rendered and encoded | {times#base model/minutes/latents again} min |",
    "(`start_from`) | {second run#steps:_} steps of batch {second run#batch}, AdamW {second run#lr:e} (warm-up {second run#warmup} steps, falling "
    "linearly over the last half), loss weight min(SNR, {second run#min_snr:g}) ^ {second run#snr_power} / SNR; … | "
    "{times#base model/minutes/second run} min |",
    "on one H200 | {recipe#pictures:_} fresh renderings; {recipe#steps:_} steps of batch {recipe#batch}, AdamW {recipe#lr:e} (warm-up "
    "{recipe#warmup} steps, falling linearly over the last half), EMA {recipe#ema}, compiled; … | {times#base model/minutes/third run} min with",
    "{code#samples:_} samples seen",
    "([raw](../results/base.json)): {base#captions} held-out captions, {base#steps} DDIM steps, guidance scale {base#guidance_scale:g}.",
    *(f"attributes right | shirt, trousers, hat, background {{base#attribute_accuracy/{name}:.3f}}," for name in
      ("shirt", "trousers", "hat", "background")),
    *(f"attributes right | … {name} {{base#attribute_accuracy/{name}:.3f}}" for name in ("action", "prop", "mean")),
    "confidence of real renderings | {base#all_joints_found:.1%} % of pictures (rendered pictures: {judge#figures/rendered/found:.1%} %) |",
    "measure base-noise`) | {base-noise#all_joints_found:.1%} % of pictures |",
    "measure base-decoder`) | {base-decoder#as it is/all_joints_found:.1%} and {base-decoder#new noise/all_joints_found:.1%} % of pictures |",
    "autoencoder, held-out renderings | {base#vae_psnr_db:.1f} dB |", "`load_pipeline` takes {recipe#guidance_scale:g} from `recipe.json`",
    "With 25 steps as many puppets are whole ({base-on-gpu#25 3.0/all_joints_found:.1%} %)", "find no more ({base-on-gpu#50 2.0/all_joints_found:.1%}, "
    "{base-on-gpu#50 4.0/all_joints_found:.1%} and {base-on-gpu#50 5.0/all_joints_found:.1%} %",
    "but one in {code#odd ones} shows something",
], "data/results/README.md": [
    "whole puppets of {base#captions} pictures", "PCK of {pose#pictures} unguided and {pose#pictures} guided pictures",
    "edge F-score of {depth#pictures} guided and {edges#pictures} unguided pictures", "whole puppets of {drag#cases} drags",
    "PCK of {transformer#pictures} guided and {transformer#pictures} unguided pictures of a transformer of the kind of Stable Diffusion 3 "
    "({code#transformer:.1f} M parameters", "(on one thread, `OMP_NUM_THREADS=1`, it is {times#combination on one thread/process_time_ratio} times)",
    "how many people fit into {notebooks#machine_gb:g} GB by these", "as it is (`bare`), {arrows#steps} steps;",
], "notebooks/A3_cost.ipynb": [
    "In time `FULL` is {cost#process_time_ratio/full:.2f} of an unguided picture of {cost#steps} steps, not {front#pose/full/cost:.2f}.",
], "notebooks/TEACHING.md": [
    "All of them take {notebooks#seconds:.0f} s one after the other, and {notebooks#side_by_side/seconds:.0f} s two at a time with a thread each",
    *(f"]({name}.ipynb) | … | … | {{notebooks#notebooks/{name}/seconds:.0f}} s |" for name in sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))),
    "A kernel that runs notebook 0 holds {notebooks#notebooks/00_start_here/peak_mb} MB at most, notebook 5 "
    "{notebooks#notebooks/05_guided_sampling/peak_mb} MB, notebook 7 {notebooks#notebooks/07_drag/peak_mb} MB, notebook 10 "
    "{notebooks#notebooks/10_your_own_head/peak_mb} MB, and A1, which holds the most of all, {notebooks#notebooks/A1_train_the_base_model/peak_mb} MB; a JupyterLab server with nothing open "
    "{notebooks#server_mb} MB",
    "{notebooks#machine_gb:g} GB are enough for {notebooks#people_at_the_largest} people", "thirty need {notebooks#gb_for_thirty:.0f} GB",
], "rg_minimal/puppets/transformer.py": [
    "PCK@0.05 of {transformer#guided/pck@0.05:.2f} against {transformer#unguided/pck@0.05:.2f} unguided, {transformer#pictures} held-out poses, "
    "{transformer#steps} Euler steps",
], "notebooks/A2_how_the_numbers_are_measured.ipynb": [
    "with {pose#pictures} it is {pose#unguided/pck@0.1:.2f}.", "a network of {code#judge:.1f} million weights",
], "notebooks/01_diffusion.ipynb": [
    "This course takes {code#full};",
], "notebooks/04_train_a_head.ipynb": [
    "which saw some {code#shipped:_} pictures in a longer training",
], "notebooks/05_guided_sampling.ipynb": [
    "- `FULL`, {code#full} steps: what is kept.", "- `DRAFT`, {code#draft} steps, with {code#draft moves} longer moves at each guided one",
    "these are {front#none/6 steps/pictures} pairs, {front#none/15 steps/pictures} from {code#longer/0} steps on",
], "notebooks/11_larger_models.ipynb": [
    "a pose head of width 128: {code#pose head:.1f} million parameters",
    "Four of {tokens#channels} channels hold {code#four channels, least:.0%} to {code#four channels, most:.0%} % of the energy; "
    "if all were alike, it would be {code#four channels, alike:.0%} %.",
], "notebooks/A1_train_the_base_model.ipynb": [
    "went on from its weights, with {second run#pictures:_} pictures and {second run#steps:_} steps of batch {second run#batch} (",
    "those on a GPU, with {recipe#pictures:_} pictures and {recipe#steps:_} steps of batch {recipe#batch} (",
    "the autoencoder {times#base model/minutes/autoencoder} minutes, latents {times#base model/minutes/latents} and "
    "{times#base model/minutes/latents again}, the diffusion model {times#base model/minutes/first run} and {times#base model/minutes/second run}, "
    "and the whole third run {times#base model/minutes/third run}.",
]}

# ---- cards that a script writes --------------------------------------------------------------------------------------

def head_card(name):
    """The card of a shipped head, from what its config says."""
    head, task = ReadoutHead.from_pretrained(ROOT / "data" / "heads" / name), heads.TASKS[name]
    training, start = head.config.extra["training"], f"{task.measure} from "
    results = {f"{training['pictures']} {task.unit}": head.config.extra[task.measure]}
    results |= {key.removeprefix(start): scores for key, scores in head.config.extra.items() if key.startswith(start)}
    return heads.card(task, head, results, training["seconds"])


MADE = {f"data/heads/{name}/README.md": partial(head_card, name) for name in heads.TASKS}
MADE["data/judge/README.md"] = lambda: judge.card(judge.load_judge())
MADE["data/decoder/README.md"] = lambda: decoder.card(stored("finer decoder"))
MADE["data/previews/README.md"] = lambda: previews.card(previews.load_previews(load_pipeline()), stored("previews"))

# ---- a table that a script writes ------------------------------------------------------------------------------------

CLAIM = re.compile(r"(<!-- table: evidence -->\n)(.*?)(<!-- end -->)", re.S)


def claim():
    """What the README's table of the evidence has to say."""
    return report.markdown(report.read_tables(ROOT / report.C.FOLDER))


# ---- what is no measurement, by kinds and then by its words ----------------------------------------------------------

KINDS = {
    "part of a name: SD3, fp16, PCK@0.05, A1": r"[A-Za-z@]\d[\w.]*\b",
    "version: Stable Diffusion 1.5, 2.1; Python 3.11; Apache-2.0": r"(?:Stable Diffusion|Python|Notebook|Apache-)\s*\d[\d.]*(?:, \d\.\d)*",
    "number of a notebook": r"\[\d+ · |\bnotebook \d+",
    "shape: (B, 3, H, W), 128 x 128": r"\(B, \d[^()]*\)|\b\d+ x \d+\b",
    "range: [0, 1]": r"\[-?\d[\d.]*, \d[\d.]*\]",
    "timesteps of a score": r"\bt = \d+(?:, \d+)*",
    "joints of a puppet": r"\b(?:all )?14 joints\b",
}
EXEMPT = {"README.md": {
    "the paper": ["CVPR 2024, [arXiv:2312.02150]"],
    "a limit that tests/test_house.py holds": ["one module of 550 lines"],
    "defaults and settings": ["default parameters, seed 0", "a pose head from 100 pictures, live", "guidance scale 1, against", "step size 0.02",
                              "| 50 steps |", "an unguided picture of 50 steps", "the authors' settings, 50 steps", "unguided pictures of 50 steps"],
    "the level of an interval": ["its 95 % interval", "Means with 95 % intervals", "points more, with 95 % from", "(95 % from", "these, with 95 % from", "more, with 95 % from", "%, with 95 % from", "steps, with 95 % from"],
    "shares of movements": ["half of all movements", "95 % after"],
    "formats of files and settings of an example": ["visibility 0 is unlabelled", "grey (8 or 16 bits)", "steps=400"],
    "cards that are asked about": ["6 GB | 8 GB | 16 GB | 24 GB |"],
    "the name of a point": ["*until 0.8* guides", "Guided until 0.8 of the steps"],
    "definitions of measures": ["farther than 5 % of the puppet's size", "within 5 % of the puppet's size", "the same within 10 %", "as long as before to within 15 %"],
    "tolerances of tests/test_parity.py": ["equal to 1e-5", "below 1e-3"],
}, "data/results/README.md": {
    "the machine": ["for which 24 GB are too little"],
}, "data/examples/README.md": {
    "defaults and settings": ["default parameters, seed 0", "No seed was picked: 0 is"],
}, "data/puppet-diffusion/README.md": {
    "how many are shown": ["![32 uncurated samples]", "*32 uncurated samples: the first 32 captions"],
    "architecture, which the weights' shapes hold": ["factor 4", "of standard deviation 1"],
    "the world": ["skin (3)", "trousers (8 colours each)", "hat (8 colours or none)", "action (6;", "background (6)", "ball in 8 colours"],
    "a run that is not in here": ["4 000 steps of batch 32 on the CPU with 49 152 more"],
    "settings of the first run, whose recipe is not kept": [
        "6 000 pictures (crops) for the autoencoder; 20 480, then", "1 900 steps: 1 235 of 16 crops of 64 x 64 near the puppet, 665 of 4 whole pictures",
        "KL 2e-4, AdamW 1.5e-3", "| latents | 20 480 pictures", "5 200 steps of batch 16, AdamW 6e-4 (warm-up 200 steps, falling linearly over the last 40 %), "
        "EMA 0.9995, caption dropout 0.1; loss weight min(SNR, 5) / SNR, from step 3 500 on its root min(SNR, 5) ^ 0.5 / SNR",
        "the first 20 480 and as many"],
    "which key of the results": ["With 25 steps as many", "guidance scales of 2, 4 and 5 find", "% with 50 steps), measured on the GPU"],
}}

# ---- how it is read --------------------------------------------------------------------------------------------------

STRIPPED = {                     # what is no prose: code and settings are held by the tests that run them
    "front matter": r"\A---\n.*?\n---\n", "code fence": r"```.*?```", "code span": r"`[^`\n]*`", "link": r"\]\([^)\n]*\)", "address": r"https?://\S+",
    "table that tests/test_table.py or tests/write_numbers.py writes": r"<!-- table: \w+ -->.*?<!-- end -->"}


@cache
def prose(path):
    """The text, with as many blanks where it is code, a link or the like, so that places stay."""
    text = (ROOT / path).read_text(encoding="utf-8")
    for pattern in STRIPPED.values():
        text = re.sub(pattern, lambda found: re.sub(r"[^\n]", " ", found[0]), text, flags=re.S)
    return text


@cache
def stored(file):
    if file == "bytes":
        return sizes()
    if file == "code":
        return from_code()
    if file == "front":
        return front()
    if file == "pairs":
        return pairs()
    if file == "whole arrows":
        return whole_arrows()
    if file == "whole looks":
        return whole_looks()
    place = {"judge": "judge/config", "recipe": "puppet-diffusion/recipe", "second run": "puppet-diffusion/second_run",
             "previews": "previews/recipe", "finer decoder": "decoder/recipe"}.get(file, f"results/{file}")
    place = f"puppet-diffusion/{file}/config" if file in ("vae", "unet", "text_encoder") else f"{file}/config" if "/" in file else place
    return json.loads((ROOT / "data" / f"{place}.json").read_text(encoding="utf-8"))


def from_code():
    """What the code declares, and what follows from what is stored."""
    recipe, found, tokens = stored("recipe"), stored("base")["all_joints_found"], stored("tokens")
    shares = tokens["timesteps"]["500"]["raw"]["share_of_four"]
    with torch.device("meta"):
        large = transformer.build_transformer(transformer.TransformerRecipe())
    unguided = stored("front")["none"]
    longer = sorted(int(name.split()[0]) for name, row in unguided.items() if name.endswith(" steps") and row["pictures"] > stored("front")["pose"]["draft"]["pictures"])
    return {"few": heads.FEW, "words": len(vocabulary()), "held out": world.HELD_OUT, "samples": 5200 * 16 + sum(run["steps"] * run["batch"] for run in (stored("second run"), recipe)),
            "odd ones": COUNT[round(1 / (1 - found))],
            "four channels, least": min(shares), "four channels, most": max(shares), "four channels, alike": 4 / tokens["channels"],
            "full": FULL["num_inference_steps"], "draft": DRAFT["num_inference_steps"], "draft moves": COUNT[DRAFT["inner_steps"]], "drag": DRAG_FULL["num_inference_steps"], "whole": WHOLE["num_inference_steps"],
            "looks until": LOOKS[1], "held": HELD["step_size"], "50": 50,
            "front seeds": COUNT[stored("front")["pose"]["draft"]["seeds"]], "longer": longer, "longer seeds": COUNT[unguided["50 steps"]["seeds"]],
            "passes of 50": round(stored("front")["none"]["50 steps"]["passes"]),
            "live passes": 2 * 4 + LIVE["steps"] - 2,          # two guided steps of a move and both branches
            "shipped": round(stored("heads/pose")["extra"]["training"]["pictures"], -2),
            "pose head": weights_in(ROOT / "data" / "heads" / "pose" / "head.safetensors") / 1e6,
            "judge": sum(map(weights_in, (ROOT / "data" / "judge").glob("*.safetensors"))) / 1e6,
            "transformer": sum(value.numel() for value in large.parameters()) / 1e6}


def pairs():
    """Whole puppets of 25 unguided steps, and of 50 with new noise at each, less those of 50 without, in points; and of drags at the pace
    `DRAG_FULL`, less those of 25 steps with moves of 0.1."""
    rows, made = read_front(ROOT / "data" / "results" / "front.csv"), {}
    for name, point in (("25", "25 steps"), ("whole", "whole")):
        found = compare(rows, "none", point, "50 steps")
        points = {name: 100 * value for name, value in found.items() if name.startswith("whole")}
        made[name] = points | {"fewer": -points["whole_low"], "pairs": found["pairs"], "steps": 50}
    drags = compare(rows, "drag", "full", "25 steps, step_size=0.1")
    made["drags"] = {"fewer": -100 * drags["whole"], "fewer_high": -100 * drags["whole_low"], "more": 100 * drags["whole_high"], "differ": sum(differing(rows))}
    return made


def differing(rows):
    """How many of the drags are whole at `DRAG_FULL` alone, and in 25 steps with moves of 0.1 alone."""
    one, other = ({(row["seed"], row["picture"]): row["whole"] for row in rows if (row["task"], row["point"]) == ("drag", name)}
                  for name in ("full", "25 steps, step_size=0.1"))
    more = [one[key] - other[key] for key in one.keys() & other.keys()]
    return more.count(1), more.count(-1)


def whole_arrows():
    """Kind, or all -> how many single arrows leave one whole puppet, with Wilson's interval in percent; more, grabbed, than bare, in points."""
    rows, made = stored("arrows")["rows"], {}
    for kind in ("all", *stored("arrows")["kinds"]):
        both = torch.tensor([[row[how]["whole"] for how in ("grabbed", "bare")] for row in rows if kind in ("all", row["kind"])])         # (n, 2)
        low, high = bootstrap(both[:, :1] - both[:, 1:], 10_000)
        made[kind] = {"n": len(both), "more": 100 * float(both.mean(0).diff(dim=0).neg()), "fewer": -100 * float(low), "most": 100 * float(high)}
        for how, column in zip(("grabbed", "bare"), both.T):
            share = shared_by(column[None])
            made[kind][how] = {"count": int(column.sum()), "low": 100 * share["low"], "high": 100 * share["high"]}
    return made


def whole_looks():
    """Wilson's intervals, in percent, of whole puppets with given looks in 50 steps: those of the front and those of identity.json."""
    rows = [row for row in read_front(ROOT / "data" / "results" / "front.csv") if (row["task"], row["point"]) == ("identity", "50 steps")]
    counts = {"front": (sum(row["whole"] for row in rows), len(rows)), "identity": (stored("identity")["guided"]["all_joints_found"] * 100, 100)}
    assert stored("identity")["pictures"] == 100 and stored("identity")["steps"] == 50
    grids = {name: (torch.arange(of) < round(found)).float()[None] for name, (found, of) in counts.items()}
    return {name: {end: 100 * shared_by(grid)[end] for end in ("low", "high")} for name, grid in grids.items()}


def front():
    """Task, point -> what was measured, with its cost in unguided pictures of 50 steps."""
    found = {}
    for row in summarize(read_front(ROOT / "data" / "results" / "front.csv")):
        found.setdefault(row["task"], {})[row["point"]] = row
    return {task: {name: row | {"cost": row["passes"] / found["none"]["50 steps"]["passes"]} for name, row in rows.items()}
            for task, rows in found.items()}


def sizes():
    """Millions of weights of each part of the shipped model, and its megabytes."""
    found, files = {}, list((ROOT / "data" / "puppet-diffusion").rglob("*.safetensors"))
    for path in files:
        found[path.parent.name] = weights_in(path) / 1e6
    return found | {"all": sum(path.stat().st_size for path in files) / 1e6}


def weights_in(path):
    """How many numbers a safetensors file holds."""
    data = path.read_bytes()
    header = json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])
    return sum(weights(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def weights(shape):
    return shape[0] * weights(shape[1:]) if shape else 1


def value(source):
    """What a hole stands for, as a text shows it."""
    place, _, form = source.partition(":")
    file, _, keys = place.partition("#")
    number = stored(file)
    for key in keys.split("/"):
        number = number[int(key) if isinstance(number, list) else key]
    if form == "e":
        return f"{number:.0e}".replace("e-0", "e-")
    return format(number, form).replace("_", " ").rstrip("%")


HOLE = re.compile(r"\{([^{}]*)\}")


def pattern(words):
    """A regex for these words in a text; a hole is a group that takes any number, or the number's word."""
    parts = HOLE.split(words)
    for i, part in enumerate(parts):
        literal = r"\s+".join(map(re.escape, re.split(r"\s+", part))).replace(r"\s+…\s+", r"[^\n]*?")
        parts[i] = r"(\d(?:[\d., ]*\d)?(?:e-?\d+)?|[a-z]+)" if i % 2 else literal
    return re.compile("".join(parts))


def places(path, words):
    """Where the text has these words, as matches; at least one."""
    found = list(pattern(words).finditer((ROOT / path).read_text(encoding="utf-8")))
    assert found, f"{path} has no words like {words!r}; if its text was changed, change the rule in tests/test_numbers.py"
    return found


@pytest.mark.parametrize("path, words", [(path, words) for path, rules in READ.items() for words in rules])
def test_a_number_is_the_one_that_was_measured(path, words):
    for found in places(path, words):
        said, right = found.groups(), tuple(value(hole) for hole in HOLE.findall(words))
        assert said == right, f"{path} says {said}, the results say {right}: {found[0]!r}"


@pytest.mark.parametrize("path", [path for path in TEXTS if path not in MADE])
def test_no_number_stands_there_without_a_rule(path):
    known = [found.span(group + 1) for words in READ.get(path, []) for found in places(path, words) for group in range(len(found.groups()))]
    known += [found.span() for phrases in EXEMPT.get(path, {}).values() for words in phrases for found in places(path, words)]
    known += [found.span() for kind in KINDS.values() for found in re.finditer(kind, prose(path))]
    text = prose(path)
    loose = [text[max(0, found.start() - 40):found.end() + 20] for found in re.finditer(NUMBER, text)
             if not any(first <= found.start() and found.end() <= last for first, last in known)]
    assert not loose, f"{path} has numbers that no rule of tests/test_numbers.py knows: " + "; ".join(map(repr, loose))


@pytest.mark.parametrize("path", MADE)
def test_a_card_is_what_its_figures_make(path):
    """Cards that a script writes are written again from what is stored beside the weights; where they were trained is not."""
    machine = r"\d s on (\d+ CPU threads|an [^;]+);"
    made, card = (re.sub(machine, "s on some machine;", text) for text in (MADE[path](), (ROOT / path).read_text(encoding="utf-8")))
    assert made.splitlines() == card.splitlines()


def test_the_figures_that_notebook_a2_shows_are_the_stored_ones():
    """Its cell prints data/results/*.json: what stands below it is what it prints now."""
    cells = nbformat.read(ROOT / "notebooks/A2_how_the_numbers_are_measured.ipynb", as_version=4).cells
    cell, = (cell for cell in cells if cell.cell_type == "code" and "shipped = {" in cell.source)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(cell.source, {"Path": Path, "json": json, "rg_minimal": rg_minimal})
    assert "".join(each.text for each in cell.outputs) == printed.getvalue()


def test_the_points_of_the_front_are_of_as_many_pictures_as_its_caption_says():
    """Those that the README and notebook 5 draw: all alike, but for three numbers of steps and new noise, which have more."""
    unguided = {name: (row["pictures"], row["seeds"]) for name, row in front()["none"].items()}
    more = [f"{steps} steps" for steps in stored("code")["longer"]] + [*ANEW]
    assert len(more) == 5 and len({unguided.pop(name) for name in more}) == 1
    few = {(row["pictures"], row["seeds"]) for row in front()["pose"].values()} | set(unguided.values())
    assert len(few) == 1, few


def test_new_noise_is_said_to_help_pictures_without_guidance_alone():
    """Notebook 5, and the README's words: more whole puppets where nothing guides; guided, no more of them, and fewer joints in place."""
    for path, said in (("notebooks/05_guided_sampling.ipynb", "in the same pairs more puppets are whole."), ("README.md", "Under guidance it finds no more, and costs control"),
                       ("notebooks/05_guided_sampling.ipynb", "fewer joints are in place than without it, and no more puppets are whole.")):
        assert places(path, said)
    rows = read_front(ROOT / "data" / "results" / "front.csv")
    alone, guided = (compare(rows, task, "whole", "50 steps") for task in ("none", "pose"))
    assert alone["whole_low"] > 0 and guided["control_high"] < 0
    assert guided["whole_low"] <= 0 <= guided["whole_high"]


def test_few_steps_are_said_to_cost_whole_puppets_only_if_they_do():
    """Notebook 5: left alone, the model draws as many whole puppets with few steps as with many, as far as the pairs can tell."""
    said = "the 95 % interval of every difference to 50 steps holds zero"
    assert places("notebooks/05_guided_sampling.ipynb", said)
    rows = read_front(ROOT / "data" / "results" / "front.csv")
    found = {name: compare(rows, "none", name, "50 steps") for name in front()["none"] if name not in ("50 steps", *ANEW)}
    assert all(each["whole_low"] <= 0 <= each["whole_high"] for each in found.values()), found


def test_what_was_tried_is_said_of_the_points_that_were():
    """The README and notebook 5: what of the five has which settings, and that the names stand where the points tell."""
    for path, said in (("README.md", "moved predictions and more moves a step were tried for all five"),
                       ("README.md", "intervals, every second step, new noise, moved predictions and more moves a step were tried for all five"),
                       ("notebooks/05_guided_sampling.ipynb", "All of these were tried for depth, edges, looks and drags as well")):
        assert places(path, said)
    guided = {task: points for task, points in POINTS.items() if task != "none"}
    kinds = {"a sampler": lambda each: each.sampler, "an interval": lambda each: "stop" in each.objective, "every second step": lambda each: each.schedule,
             "a moved prediction": lambda each: each.settings.get("moves") and each.name not in ("full", "draft"),
             "more moves": lambda each: each.settings.get("inner_steps", 1) > 1 and each.name not in ("full", "draft")}
    for words, tried in kinds.items():
        assert {task for task, points in guided.items() if any(map(tried, points))} == set(guided), words
    noise = lambda each: each.name != "reference" and "eta" in each.settings | each.objective
    assert {task for task, points in guided.items() if any(map(noise, points))} == set(guided)
    assert {task for task, points in guided.items() if any(each.name == "reference" for each in points)} == set(guided)


def test_no_point_as_cheap_as_the_draft_is_said_to_be_nearer():
    rows, found = read_front(ROOT / "data" / "results" / "front.csv"), front()
    for task in ("pose", "depth", "edges", "identity"):
        assert places("README.md", "no setting that costs at most as much as `DRAFT` is measurably nearer than it, in pairs")
        sign, points, near = (-1 if task == "depth" else 1), found[task], []
        for name in (name for name, row in points.items() if name != "draft" and row["passes"] <= points["draft"]["passes"]):
            more = compare(rows, task, name, "draft")
            assert (more["control_low"] <= 0 if sign > 0 else more["control_high"] >= 0), (task, name, more)
            near += [name] if more["control_low"] <= 0 <= more["control_high"] else []
        assert "8 steps, DPM-Solver++" in near, task                                   # as near
    later = {(task, other): compare(rows, task, "25 steps, until 0.8", other) for task in ("depth", "edges", "identity") for other in ("full", "50 steps")}
    assert later["depth", "50 steps"]["control_low"] <= 0 and later["edges", "50 steps"]["control_high"] >= 0, "as near as 50 steps"
    assert later["identity", "full"]["control_high"] < 0, "looks agree less"
    assert compare(rows, "identity", "12 steps, on the prediction", "draft")["whole_high"] < 0


def test_of_whole_puppets_dragged_in_fewer_steps_no_difference_is_told():
    """By the sign test: pairs that differ would be as one-sided by chance more often than once in twenty."""
    assert places("README.md", "pairs differ, which is too few to tell that from none")
    rows = read_front(ROOT / "data" / "results" / "front.csv")
    fewer, more = sorted(differing(rows))
    assert 2 * sum(math.comb(fewer + more, i) for i in range(fewer + 1)) / 2 ** (fewer + more) > 0.05
    assert compare(rows, "drag", "full", "25 steps, step_size=0.1")["control_high"] < 0.5


def test_looks_of_the_front_are_less_whole_than_those_of_the_other_references():
    """The README: the two intervals do not meet."""
    assert places("README.md", "the intervals do not meet. Why is not known")
    assert stored("whole looks")["front"]["high"] < stored("whole looks")["identity"]["low"]


def test_what_is_said_of_whole_arrows_is_what_the_pairs_tell():
    """The README: of all no difference can be told; by kind, where more and where fewer are whole, and which are the hardest."""
    found = stored("whole arrows")
    gaps = {kind: each["grabbed"]["count"] - each["bare"]["count"] for kind, each in found.items() if kind != "all"}
    assert found["all"]["fewer"] >= 0 <= found["all"]["most"] and found["all"]["more"] > 0
    assert {kind for kind, gap in gaps.items() if gap < 0} == {"head", "ankle", "prop"} and gaps["wrist"] > 0 < gaps["body"]
    hardest = [min(gaps, key=lambda kind: found[kind][how]["count"] / found[kind]["n"]) for how in ("grabbed", "bare")]
    assert hardest == ["elbow", "elbow"]


def test_the_claim_is_what_the_tables_of_the_evidence_say():
    assert [table for _, table, _ in CLAIM.findall((ROOT / "README.md").read_text(encoding="utf-8"))] == [claim()]


@pytest.mark.parametrize("before", ["", "| another |\n"])
def test_the_claim_is_written_where_it_belongs_and_nothing_else_is_touched(before, tmp_path, monkeypatch):
    text = "first\n<!-- table: evidence -->\n{}<!-- end -->\nthen\n<!-- table: pipelines -->\n| mine |\n<!-- end -->\n"
    right = claim()
    (tmp_path / "README.md").write_text(text.format(before), encoding="utf-8")
    monkeypatch.setattr("test_numbers.ROOT", tmp_path)
    monkeypatch.setattr("test_numbers.claim", lambda: right)
    assert write_claim() and not write_claim()
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == text.format(right)


def test_numbers_are_written_where_they_belong(tmp_path, monkeypatch):
    """What `write_numbers.py` makes of a README whose measured numbers are all wrong is the README as it is."""
    right = (ROOT / "README.md").read_text(encoding="utf-8")
    wrong, spans = right, {found.span(group + 1) for words in READ["README.md"] for found in places("README.md", words)
                           for group, hole in enumerate(HOLE.findall(words))}
    for first, last in sorted(spans, reverse=True):
        wrong = wrong[:first] + ("9.9" if right[first].isdigit() else "some") + wrong[last:]
    (tmp_path / "README.md").write_text(wrong, encoding="utf-8")
    for name in ("data", "notebooks", "rg_minimal"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setattr("test_numbers.ROOT", tmp_path)
    assert wrong != right and len(write("README.md")) > 30
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == right and not write("README.md")
