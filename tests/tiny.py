"""Random pipelines of a few thousand weights in diffusers' own classes, built in a blink, for tests of the core."""
import torch
from diffusers import (AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline,
                       UNet2DConditionModel)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerFast

WORDS = "a puppet with red blue shirt is waving jumping in the park".split()
TEXT = dict(hidden_size=32, intermediate_size=37, num_attention_heads=4, num_hidden_layers=2, vocab_size=32,
            max_position_embeddings=16, projection_dim=32, bos_token_id=0, eos_token_id=1, pad_token_id=2)


def tiny_tokenizer():
    """Word-level, as the shipped model's: unknown words become <unk>."""
    vocabulary = {word: index for index, word in enumerate(["<s>", "</s>", "<pad>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
                                   unk_token="<unk>", model_max_length=16)


def tiny_scheduler(**settings):
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                         set_alpha_to_one=False, steps_offset=1, **settings)


def tiny_vae():
    return AutoencoderKL(block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
                         up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, sample_size=32)


def tiny_unet(**settings):
    return UNet2DConditionModel(**{**dict(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32), norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32, attention_head_dim=4), **settings})


def tiny_pipe(prediction_type="epsilon"):
    """Stable Diffusion: latents 4 x 16 x 16, pictures 32 x 32."""
    torch.manual_seed(0)
    pipe = StableDiffusionPipeline(
        vae=tiny_vae(), text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT)), tokenizer=tiny_tokenizer(), unet=tiny_unet(),
        scheduler=tiny_scheduler(prediction_type=prediction_type), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False)
    return _ready(pipe)


def tiny_xl_pipe():
    """Stable Diffusion XL: two text encoders, pooled text and sizes as added conditions."""
    torch.manual_seed(0)
    unet = tiny_unet(cross_attention_dim=64, addition_embed_type="text_time", addition_time_embed_dim=8,
                     projection_class_embeddings_input_dim=6 * 8 + 32)
    pipe = StableDiffusionXLPipeline(
        vae=tiny_vae(), text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT)), tokenizer=tiny_tokenizer(), unet=unet,
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**TEXT)), tokenizer_2=tiny_tokenizer(),
        scheduler=tiny_scheduler(), add_watermarker=False)
    return _ready(pipe)


def _ready(pipe):
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe
