r"""Laws of the dense transformer: parameters, arithmetic work, KV cache and the training time that follows."""

from perfmodel.formulas._registry import formula

__all__ = [
    "dense_layer_params",
    "gpt_params_sc21",
    "hardware_flops_korthikanti2022",
    "kv_cache_bytes_per_token",
    "lora_params",
    "model_flops_korthikanti2022",
    "palm_flops_per_token",
    "training_flops_6nd",
    "training_flops_sc21",
    "training_time_sc21",
]


@formula
def dense_layer_params(d_model, d_ff, n_heads, n_kv_heads, d_head, mlp_matrices):
    r"""Weights of the matrices of one dense transformer layer with grouped-query attention.

    .. math:: P = 2 h d (a + k) + m h f

    Symbols      h  d_model [1] width;  f  d_ff [1] width inside the MLP;  a  n_heads [1] query heads;
                 k  n_kv_heads [1] key and value heads;  d  d_head [1] width of a head;
                 m  mlp_matrices [1] 3 when gated, else 2;  returns [1]
    Assumptions  biases and norms not counted (below 0.1 % for h >= 4096)
    Valid for    d_model >= 1; d_ff >= 1; n_heads >= 1; n_kv_heads >= 1; d_head >= 1; 2 <= mlp_matrices <= 3
    Monotone     d_model +; d_ff +; n_heads +; n_kv_heads +; d_head +; mlp_matrices +
    Source       Ainslie et al. 2023, "GQA", arXiv:2305.13245 (attention); Shazeer 2020, "GLU Variants Improve
                 Transformer", arXiv:2002.05202 (gated MLP); the sum of their matrix shapes
    Example      >>> dense_layer_params(4096, 14336, 32, 8, 128, 3)
                 218103808
    """
    return 2 * d_model * d_head * (n_heads + n_kv_heads) + mlp_matrices * d_model * d_ff


@formula
def gpt_params_sc21(n_layers, d_model, vocab_size, seq_len):
    r"""Parameters of a GPT with an MLP four times as wide as the model, biases, layer norms and a shared embedding.

    .. math:: P = 12 l h^2 \left(1 + \frac{13}{12 h} + \frac{V + s}{12 l h}\right)

    Symbols      l  n_layers [1] layers;  h  d_model [1] width;  V  vocab_size [1] rows of the embedding;
                 s  seq_len [1] learned positions;  returns [1]
    Assumptions  d_ff = 4 h, tied LM head, learned positions; the final layer norm (2 h) is left out
    Valid for    n_layers >= 1; d_model >= 1; vocab_size >= 1; seq_len >= 1
    Monotone     n_layers +; d_model +; vocab_size +; seq_len +
    Source       Narayanan et al. 2021 (SC21), "Efficient Large-Scale Language Model Training on GPU Clusters Using
                 Megatron-LM", eq. 2, arXiv:2104.04473
    Checked      SC21 Table 1: ten sizes, all within the digits given
    """
    return 12 * n_layers * d_model**2 * (1 + 13 / (12 * d_model) + (vocab_size + seq_len) / (12 * n_layers * d_model))


@formula
def training_flops_sc21(global_batch, seq_len, n_layers, d_model, vocab_size, flop_per_mac=2):
    r"""Hardware FLOPs of one training step of a GPT with full activation recomputation.

    .. math:: F = 96 B s l h^2 \left(1 + \frac{s}{6 h} + \frac{V}{16 l h}\right)

    Symbols      B  global_batch [1] sequences;  s  seq_len [1] tokens of a sequence;  l  n_layers [1] layers;
                 h  d_model [1] width;  V  vocab_size [1] rows of the LM head;
                 c  flop_per_mac [flop] work of one multiply-add;  returns [flop]
    Assumptions  d_ff = 4 h, as many key as query heads, full (not causal) attention; every layer runs forward twice,
                 the LM head once; matrix products only
    Valid for    global_batch >= 1; seq_len >= 1; n_layers >= 1; d_model >= 1; vocab_size >= 1;
                 2 <= flop_per_mac <= 2
    Monotone     global_batch +; seq_len +; n_layers +; d_model +; vocab_size +
    Source       Narayanan et al. 2021 (SC21), "Efficient Large-Scale Language Model Training on GPU Clusters Using
                 Megatron-LM", eq. 3, arXiv:2104.04473
    Checked      SC21 Table 2: days for 300B tokens at the rate reached, three rows
    """
    layer_macs = 48 * global_batch * seq_len * n_layers * d_model**2
    return flop_per_mac * layer_macs * (1 + seq_len / (6 * d_model) + vocab_size / (16 * n_layers * d_model))


@formula
def training_flops_6nd(n_params, n_tokens, flop_per_mac=2):
    r"""FLOPs to train a dense model on so many tokens, without attention scores and without recomputation.

    .. math:: F = 6 N D

    Symbols      N  n_params [1] parameters that multiply;  D  n_tokens [1] training tokens;
                 c  flop_per_mac [flop] work of one multiply-add;  returns [flop]
    Assumptions  one multiply-add per parameter and token forward, two backward
    Valid for    n_params >= 1; n_tokens >= 1; 2 <= flop_per_mac <= 2;
                 fails when the sequence is long against 12 d_model
    Monotone     n_params +; n_tokens +
    Source       Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1, arXiv:2001.08361
    Checked      Brown et al. 2020 Table D.1: three sizes, within the digits given
    """
    return 3 * flop_per_mac * n_params * n_tokens


@formula
def model_flops_korthikanti2022(global_batch, seq_len, n_layers, d_model, vocab_size, flop_per_mac=2):
    r"""Model FLOPs of one training step of a GPT: what any implementation has to do.

    .. math:: F = 72 B L s h^2 \left(1 + \frac{s}{6 h} + \frac{V}{12 h L}\right)

    Symbols      B  global_batch [1] sequences;  s  seq_len [1] tokens of a sequence;  L  n_layers [1] layers;
                 h  d_model [1] width;  V  vocab_size [1] rows of the LM head;
                 c  flop_per_mac [flop] work of one multiply-add;  returns [flop]
    Assumptions  d_ff = 4 h, as many key as query heads, full (not causal) attention, backward twice forward
    Valid for    global_batch >= 1; seq_len >= 1; n_layers >= 1; d_model >= 1; vocab_size >= 1;
                 2 <= flop_per_mac <= 2
    Monotone     global_batch +; seq_len +; n_layers +; d_model +; vocab_size +
    Source       Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", appendix A,
                 arXiv:2205.05198
    Checked      Korthikanti et al. 2022 Table 5: MFU and step time of four sizes
    """
    layer_macs = 36 * global_batch * seq_len * n_layers * d_model**2
    return flop_per_mac * layer_macs * (1 + seq_len / (6 * d_model) + vocab_size / (12 * n_layers * d_model))


@formula
def hardware_flops_korthikanti2022(global_batch, seq_len, n_layers, d_model, vocab_size, flop_per_mac=2):
    r"""Hardware FLOPs of one training step of a GPT with selective recomputation of the attention core.

    .. math:: F = 72 B L s h^2 \left(1 + \frac{s}{3 h} + \frac{V}{12 h L}\right)

    Symbols      B  global_batch [1] sequences;  s  seq_len [1] tokens of a sequence;  L  n_layers [1] layers;
                 h  d_model [1] width;  V  vocab_size [1] rows of the LM head;
                 c  flop_per_mac [flop] work of one multiply-add;  returns [flop]
    Assumptions  as the model FLOPs of the same paper, and the attention core charged at twice its model work (the
                 paper's own count; one more forward of it would be 4/3)
    Valid for    global_batch >= 1; seq_len >= 1; n_layers >= 1; d_model >= 1; vocab_size >= 1;
                 2 <= flop_per_mac <= 2
    Monotone     global_batch +; seq_len +; n_layers +; d_model +; vocab_size +
    Source       Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", appendix A,
                 arXiv:2205.05198
    Checked      Korthikanti et al. 2022 Table 5: HFU and step time of four sizes
    """
    layer_macs = 36 * global_batch * seq_len * n_layers * d_model**2
    return flop_per_mac * layer_macs * (1 + seq_len / (3 * d_model) + vocab_size / (12 * n_layers * d_model))


@formula
def kv_cache_bytes_per_token(n_layers, n_kv_heads, d_head, byte_per_value):
    r"""Memory that one token keeps in the key-value cache of all layers.

    .. math:: M = 2 L k d b

    Symbols      L  n_layers [1] layers;  k  n_kv_heads [1] key and value heads;  d  d_head [1] width of a head;
                 b  byte_per_value [B] size of one cached number;  returns [B]
    Assumptions  every layer keeps every token: no window, no sharing between layers, no latent compression
    Valid for    n_layers >= 1; n_kv_heads >= 1; d_head >= 1; 0.5 <= byte_per_value <= 4
    Monotone     n_layers +; n_kv_heads +; d_head +; byte_per_value +
    Source       Pope et al. 2022, "Efficiently Scaling Transformer Inference", section 2.1, arXiv:2211.05102
    Checked      Zhao et al. 2025 (DeepSeek) Table 1: two models, exact
    """
    return 2 * n_layers * n_kv_heads * d_head * byte_per_value


@formula
def palm_flops_per_token(n_params, n_layers, n_heads, d_head, seq_len, flop_per_mac=2):
    r"""Training FLOPs per token with full attention, the numerator of the model FLOPs utilisation (MFU).

    .. math:: F = 6 N + 12 L H Q T

    Symbols      N  n_params [1] parameters;  L  n_layers [1] layers;  H  n_heads [1] heads;  Q  d_head [1] width of a
                 head;  T  seq_len [1] tokens of a sequence;  c  flop_per_mac [flop] work of one multiply-add;
                 returns [flop]
    Assumptions  full (not causal) attention, no recomputation
    Valid for    n_params >= 1; n_layers >= 1; n_heads >= 1; d_head >= 1; seq_len >= 1; 2 <= flop_per_mac <= 2
    Monotone     n_params +; n_layers +; n_heads +; d_head +; seq_len +
    Source       Chowdhery et al. 2022, "PaLM: Scaling Language Modeling with Pathways", appendix B, arXiv:2204.02311
    Checked      PaLM 540B: MFU 46.2 % at 238.3 thousand tokens/s on 6144 TPU v4
    """
    return flop_per_mac * (3 * n_params + 6 * n_layers * n_heads * d_head * seq_len)


@formula
def training_time_sc21(n_tokens, n_params, accelerators, achieved_flop_per_s, flop_per_mac=2):
    r"""End-to-end training time with full recomputation, from the rate that each accelerator really reaches.

    .. math:: t \approx \frac{8 T P}{n X}

    Symbols      T  n_tokens [1] training tokens;  P  n_params [1] parameters;  n  accelerators [1] accelerators;
                 X  achieved_flop_per_s [flop/s] hardware rate of one, recomputation counted;
                 c  flop_per_mac [flop] work of one multiply-add;  returns [s]
    Assumptions  forward twice and backward; s << 6 h and V << 16 l h; no restarts
    Valid for    n_tokens >= 1; n_params >= 1; accelerators >= 1; achieved_flop_per_s >= 1; 2 <= flop_per_mac <= 2
    Monotone     n_tokens +; n_params +; accelerators -; achieved_flop_per_s -
    Source       Narayanan et al. 2021 (SC21), "Efficient Large-Scale Language Model Training on GPU Clusters Using
                 Megatron-LM", eq. 4, arXiv:2104.04473
    Checked      SC21 section 5.1: 175B in 34 days, 1T in 84 days
    """
    return 4 * flop_per_mac * n_tokens * n_params / (accelerators * achieved_flop_per_s)


@formula
def lora_params(n, k, rank):
    r"""Parameters of a low-rank adapter beside one matrix product.

    .. math:: P = r (n + k)

    Symbols      n  n [1] outputs of the product;  k  k [1] its inputs;  r  rank [1] width of the adapter;  returns [1]
    Valid for    n >= 1; k >= 1; rank >= 1
    Monotone     n +; k +; rank +
    Source       Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1, arXiv:2106.09685
    Example      >>> lora_params(4096, 4096, 16)
                 131072
    """
    return rank * (n + k)
