r"""Memory laws of training: activations, logits and masks.

Every law takes what one rank holds: `seq_len` after context parallelism. Shards are 1 or a degree that callers choose.
"""

from perfmodel.formulas._registry import formula

__all__ = [
    "activation_bytes_per_layer",
    "activation_bytes_per_layer_full_recompute",
    "activation_bytes_per_layer_gated",
    "activation_bytes_per_layer_korthikanti2022",
    "activation_bytes_per_layer_selective_korthikanti2022",
    "attention_activation_bytes",
    "embedding_dropout_bytes_korthikanti2022",
    "expert_activation_bytes",
    "gated_mlp_activation_bytes",
    "logits_bytes",
    "output_layer_activation_bytes_korthikanti2022",
]


@formula
def activation_bytes_per_layer(
    seq_len, micro_batch, d_model, n_heads, tp, sequence_shards, hidden_bytes, parallel_bytes, score_bytes
):
    r"""Activations of one layer from three parts: split by sequence, split by tensor parallelism, attention scores.

    .. math:: A = s b \left(h \left(\frac{r}{n} + \frac{c}{t}\right) + q \frac{a s}{t}\right)

    Symbols      s  seq_len [1] tokens per sequence;  b  micro_batch [1] sequences;  h  d_model [1] hidden size;
                 a  n_heads [1] attention heads;  t  tp [1] tensor-parallel degree;
                 n  sequence_shards [1] tp with sequence parallelism, else 1;
                 r  hidden_bytes [B] per token and hidden unit in norms, residuals and dropouts;
                 c  parallel_bytes [B] per token and hidden unit inside the two tensor-parallel blocks;
                 q  score_bytes [B] per attention score, 0 when the core is recomputed or fused;  returns [B]
    Assumptions  every stored tensor falls in one of the three parts, context parallelism off unless score_bytes is 0
    Valid for    seq_len >= 1; micro_batch >= 1; tp >= 1; sequence_shards >= 1; hidden_bytes >= 0; parallel_bytes >= 0;
                 score_bytes >= 0
    Monotone     seq_len +; micro_batch +; d_model +; n_heads +; tp -; sequence_shards -; score_bytes +
    Source       Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", sections
                 4.1-4.3, arXiv:2205.05198 (the common form of its equations 1, 2 and 4)
    Checked      through its named variants
    """
    hidden = d_model * (hidden_bytes / sequence_shards + parallel_bytes / tp)
    scores = score_bytes * n_heads * seq_len / tp
    return seq_len * micro_batch * (hidden + scores)


@formula
def activation_bytes_per_layer_korthikanti2022(
    seq_len, micro_batch, d_model, n_heads, tp, sequence_shards, hidden_bytes=10, parallel_bytes=24, score_bytes=5
):
    r"""Activations of one GPT layer (biased, 4h MLP, unfused attention, three dropouts), nothing recomputed.

    .. math:: A = s b h \left(\frac{10}{n} + \frac{24}{t} + \frac{5 a s}{h t}\right)

    Symbols      s  seq_len [1] tokens per sequence;  b  micro_batch [1] sequences;  h  d_model [1] hidden size;
                 a  n_heads [1] attention heads;  t  tp [1] tensor-parallel degree;
                 n  sequence_shards [1] tp with sequence parallelism, else 1;
                 r  hidden_bytes [B] 4 norm inputs, 4 block inputs, 2 dropout masks;
                 c  parallel_bytes [B] 6 for Q K V, 2 for the projection input, 8 + 8 around GeLU;
                 q  score_bytes [B] 2 softmax output, 1 dropout mask, 2 dropout output;  returns [B]
    Assumptions  16-bit activations, 1-byte masks, d_ff = 4 d_model, no grouped queries
    Valid for    seq_len >= 1; micro_batch >= 1; tp >= 1; sequence_shards >= 1; fails for fused attention and gated MLPs
    Monotone     seq_len +; micro_batch +; d_model +; n_heads +; tp -; sequence_shards -
    Source       Korthikanti et al. 2022, equations 1 (tp = 1), 2 (sequence_shards = 1) and 4 (= tp), arXiv:2205.05198
    Checked      Korthikanti Figure 7: none+SP of four models, worst .09 points (tests/test_laws.py)
    """
    return activation_bytes_per_layer(
        seq_len, micro_batch, d_model, n_heads, tp, sequence_shards, hidden_bytes, parallel_bytes, score_bytes
    )


@formula
def activation_bytes_per_layer_selective_korthikanti2022(
    seq_len, micro_batch, d_model, tp, sequence_shards, hidden_bytes=10, parallel_bytes=24
):
    r"""Activations of one GPT layer when the attention core (scores, softmax, dropout, P V) is recomputed.

    .. math:: A = s b h \left(\frac{10}{n} + \frac{24}{t}\right)

    Symbols      s  seq_len [1] tokens per sequence;  b  micro_batch [1] sequences;  h  d_model [1] hidden size;
                 t  tp [1] tensor-parallel degree;
                 n  sequence_shards [1] tp with sequence parallelism, else 1;
                 r  hidden_bytes [B] norm and block inputs, dropout masks;
                 c  parallel_bytes [B] Q K V, projection input, around GeLU;  returns [B]
    Assumptions  as activation_bytes_per_layer_korthikanti2022
    Valid for    seq_len >= 1; micro_batch >= 1; tp >= 1; sequence_shards >= 1
    Monotone     seq_len +; micro_batch +; d_model +; tp -; sequence_shards -
    Source       Korthikanti et al. 2022, equation 6 and Table 2, arXiv:2205.05198
    Checked      Korthikanti Figure 7: selective and selective+SP of four models, worst .14 points (tests/test_laws.py)
    """
    return activation_bytes_per_layer(
        seq_len, micro_batch, d_model, 0, tp, sequence_shards, hidden_bytes, parallel_bytes, score_bytes=0
    )


@formula
def activation_bytes_per_layer_full_recompute(seq_len, micro_batch, d_model, shards=1, bytes_per_activation=2):
    r"""Activations of one layer when only its input is kept and everything else is recomputed.

    .. math:: A = 2 s b h / n

    Symbols      s  seq_len [1] tokens per sequence;  b  micro_batch [1] sequences;  h  d_model [1] hidden size;
                 n  shards [1] 1 when every tensor-parallel rank keeps the whole input, tp when it is split (sequence
                 parallelism or Megatron's distributed saved activations);
                 w  bytes_per_activation [B] precision of the input;  returns [B]
    Assumptions  one checkpoint per layer, the layer being recomputed is extra (one layer without recomputation)
    Valid for    seq_len >= 1; micro_batch >= 1; shards >= 1
    Monotone     seq_len +; micro_batch +; d_model +; shards -
    Source       Korthikanti et al. 2022, Table 2 (last row, 2 s b h), arXiv:2205.05198; the split is Megatron-LM's
                 distribute_saved_activations
    Checked      Korthikanti Figure 7: full recomputation of four models with shards = 1, worst .10 points
    """
    return seq_len * micro_batch * d_model * bytes_per_activation / shards


@formula
def attention_activation_bytes(
    seq_len,
    micro_batch,
    d_model,
    n_heads,
    n_kv_heads,
    d_head,
    tp,
    sequence_shards,
    hidden_tensors=2,
    bytes_per_activation=2,
    bytes_per_lse=4,
):
    r"""Activations of a norm and a fused (flash) attention block with grouped queries, without dropout.

    .. math:: A = s b \left(\frac{r w h}{n} + \frac{w (2 a + 2 k) d + l a}{t}\right)

    Symbols      s  seq_len [1] tokens per sequence on this rank;  b  micro_batch [1] sequences;
                 h  d_model [1] hidden size;  a  n_heads [1] query heads;  k  n_kv_heads [1] key-value heads;
                 d  d_head [1] head size;  t  tp [1] tensor-parallel degree;
                 n  sequence_shards [1] tp with sequence parallelism, else 1;
                 r  hidden_tensors [1] norm input and norm output (QKV input), 1 when the norm is recomputed;
                 w  bytes_per_activation [B] precision;  l  bytes_per_lse [B] softmax statistics of flash attention;
                 returns [B]
    Assumptions  saved tensors are norm input, QKV input, Q (a d), K and V (k d each), attention output (a d, also the
                 projection input) and the fp32 log-sum-exp (a); norm statistics (4 B a token) are left out, in-place
                 rotary embedding
    Valid for    seq_len >= 1; micro_batch >= 1; tp >= 1; sequence_shards >= 1; hidden_tensors >= 0; fails for tp above
                 n_kv_heads, where K and V are replicated
    Monotone     seq_len +; micro_batch +; d_model +; n_heads +; n_kv_heads +; d_head +; tp -; sequence_shards -
    Source       derived: the list of saved tensors of Korthikanti et al. 2022, section 4.1, arXiv:2205.05198, with the
                 core replaced by what flash attention saves (Dao et al. 2022, Algorithm 2, arXiv:2205.14135)
    Checked      a GPT-wide block without grouped queries keeps the 4 + 8 B a token of Korthikanti section 4.1 without
                 its dropout masks (tests/test_laws.py)
    """
    hidden = hidden_tensors * d_model * bytes_per_activation / sequence_shards
    heads = (2 * n_heads + 2 * n_kv_heads) * d_head * bytes_per_activation + n_heads * bytes_per_lse
    return seq_len * micro_batch * (hidden + heads / tp)


@formula
def gated_mlp_activation_bytes(
    seq_len,
    micro_batch,
    d_model,
    d_ff,
    tp,
    sequence_shards,
    hidden_tensors=2,
    ff_tensors=3,
    bytes_per_activation=2,
):
    r"""Activations of a norm and a gated (SwiGLU) MLP block without dropout.

    .. math:: A = s b w \left(\frac{r h}{n} + \frac{m f}{t}\right)

    Symbols      s  seq_len [1] tokens per sequence on this rank;  b  micro_batch [1] sequences;
                 h  d_model [1] hidden size;  f  d_ff [1] MLP width;  t  tp [1] tensor-parallel degree;
                 n  sequence_shards [1] tp with sequence parallelism, else 1;
                 r  hidden_tensors [1] norm input and norm output (gate and up input), 1 when the norm is recomputed;
                 m  ff_tensors [1] gate, up and their product (down input), 2 when the product is recomputed and for a
                 plain MLP;
                 w  bytes_per_activation [B] precision;  returns [B]
    Assumptions  fused activation that saves its two inputs, norm statistics (4 B a token) left out
    Valid for    seq_len >= 1; micro_batch >= 1; tp >= 1; sequence_shards >= 1; hidden_tensors >= 0; ff_tensors >= 0
    Monotone     seq_len +; micro_batch +; d_model +; d_ff +; tp -; sequence_shards -
    Source       derived: the list of saved tensors of Korthikanti et al. 2022, section 4.1, arXiv:2205.05198, for the
                 gated unit of Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202
    Checked      a plain 4h MLP (ff_tensors = 2) keeps the 4 + 16 B a token of Korthikanti section 4.1 without its
                 dropout mask (tests/test_laws.py)
    """
    hidden = hidden_tensors * d_model / sequence_shards
    return seq_len * micro_batch * bytes_per_activation * (hidden + ff_tensors * d_ff / tp)


@formula
def expert_activation_bytes(
    routed_tokens, d_model, d_ff, etp=1, hidden_tensors=2, ff_tensors=3, bytes_per_activation=2
):
    r"""Activations of the routed experts of one layer on one rank.

    .. math:: A = T w \left(r h + \frac{m f}{t_e}\right)

    Symbols      T  routed_tokens [1] token copies that this rank's experts receive, imbalance included;
                 h  d_model [1] hidden size;  f  d_ff [1] width of one expert;  t_e  etp [1] expert tensor parallelism;
                 r  hidden_tensors [1] permuted input, and the expert output kept to weigh it by the router;
                 m  ff_tensors [1] gate, up and their product, 2 when the product is recomputed;
                 w  bytes_per_activation [B] precision;  returns [B]
    Assumptions  dropless routing, router logits and index maps left out, the norm before the router counted elsewhere
    Valid for    routed_tokens >= 0; etp >= 1; hidden_tensors >= 0; ff_tensors >= 0
    Monotone     routed_tokens +; d_model +; d_ff +; etp -
    Source       derived: gated_mlp_activation_bytes with the permuted copies of Megatron-Core's token dispatcher
                 (github.com/NVIDIA/Megatron-LM, megatron/core/transformer/moe)
    """
    return routed_tokens * bytes_per_activation * (hidden_tensors * d_model + ff_tensors * d_ff / etp)


@formula
def activation_bytes_per_layer_gated(
    seq_len,
    micro_batch,
    d_model,
    d_ff,
    n_heads,
    n_kv_heads,
    d_head,
    tp,
    sequence_shards,
    bytes_per_activation=2,
    bytes_per_lse=4,
):
    r"""Activations of one Llama-like layer: gated MLP, grouped queries, fused attention, nothing dropped or recomputed.

    .. math:: A = s b \left(\frac{4 w h}{n} + \frac{w (2 a + 2 k) d + 3 w f + l a}{t}\right)

    Symbols      s  seq_len [1] tokens per sequence on this rank;  b  micro_batch [1] sequences;
                 h  d_model [1] hidden size;  f  d_ff [1] MLP width;  a  n_heads [1] query heads;
                 k  n_kv_heads [1] key-value heads;  d  d_head [1] head size;  t  tp [1] tensor-parallel degree;
                 n  sequence_shards [1] tp with sequence parallelism, else 1;
                 w  bytes_per_activation [B] precision;  l  bytes_per_lse [B] softmax statistics of flash attention;
                 returns [B]
    Assumptions  saved tensors are those of attention_activation_bytes and gated_mlp_activation_bytes
    Valid for    seq_len >= 1; micro_batch >= 1; tp >= 1; sequence_shards >= 1
    Monotone     seq_len +; micro_batch +; d_model +; d_ff +; n_heads +; n_kv_heads +; d_head +; tp -; sequence_shards -
    Source       derived: sum of attention_activation_bytes and gated_mlp_activation_bytes, after Korthikanti et al.
                 2022, section 4.1, arXiv:2205.05198
    """
    return attention_activation_bytes(
        seq_len,
        micro_batch,
        d_model,
        n_heads,
        n_kv_heads,
        d_head,
        tp,
        sequence_shards,
        bytes_per_activation=bytes_per_activation,
        bytes_per_lse=bytes_per_lse,
    ) + gated_mlp_activation_bytes(
        seq_len, micro_batch, d_model, d_ff, tp, sequence_shards, bytes_per_activation=bytes_per_activation
    )


@formula
def logits_bytes(seq_len, micro_batch, vocab_size, tp=1, bytes_per_logit=4):
    r"""Bytes of one copy of the logits on the rank that computes the loss.

    .. math:: A = 4 s b V / t

    Symbols      s  seq_len [1] tokens per sequence on this rank;  b  micro_batch [1] sequences;
                 V  vocab_size [1] vocabulary;  t  tp [1] degree that splits the vocabulary;
                 w  bytes_per_logit [B] 4 for the fp32 that the cross entropy keeps, + 2 for a bf16 copy, + 4 where the
                 gradient of the logits is a copy of its own;  returns [B]
    Valid for    seq_len >= 1; micro_batch >= 1; vocab_size >= 1; tp >= 1
    Monotone     seq_len +; micro_batch +; vocab_size +; tp -; bytes_per_logit +
    Source       Korthikanti et al. 2022, section 4.3 (cross-entropy stores the logits in 32 bits, 4 s b v),
                 arXiv:2205.05198
    """
    return seq_len * micro_batch * vocab_size * bytes_per_logit / tp


@formula
def output_layer_activation_bytes_korthikanti2022(
    seq_len, micro_batch, d_model, vocab_size, shards, bytes_per_hidden=4, bytes_per_logit=4
):
    r"""Activations after the last layer: input of the final norm, input of the output layer, fp32 logits.

    .. math:: A = \frac{4 s b h}{n} \left(1 + \frac{V}{h}\right)

    Symbols      s  seq_len [1] tokens per sequence;  b  micro_batch [1] sequences;  h  d_model [1] hidden size;
                 V  vocab_size [1] vocabulary;
                 n  shards [1] tp (sequence parallelism and a vocabulary split);
                 r  bytes_per_hidden [B] 2 for the norm input and 2 for the output-layer input;
                 w  bytes_per_logit [B] fp32;  returns [B]
    Assumptions  last pipeline stage only; sequence parallelism
    Valid for    seq_len >= 1; micro_batch >= 1; shards >= 1
    Monotone     seq_len +; micro_batch +; d_model +; vocab_size +; shards -
    Source       Korthikanti et al. 2022, section 4.3, last term, arXiv:2205.05198
    """
    hidden = seq_len * micro_batch * d_model * bytes_per_hidden / shards
    return hidden + logits_bytes(seq_len, micro_batch, vocab_size, shards, bytes_per_logit)


@formula
def embedding_dropout_bytes_korthikanti2022(seq_len, micro_batch, d_model, pp, shards, bytes_per_mask=1):
    r"""Dropout masks after the input embedding, held on the first stage for every micro-batch in flight.

    .. math:: A = s b h p / n

    Symbols      s  seq_len [1] tokens per sequence;  b  micro_batch [1] sequences;  h  d_model [1] hidden size;
                 p  pp [1] micro-batches in flight on the first stage;
                 n  shards [1] tp with sequence parallelism, else 1;
                 w  bytes_per_mask [B] one mask element;  returns [B]
    Assumptions  first stage of 1F1B only
    Valid for    seq_len >= 1; micro_batch >= 1; pp >= 1; shards >= 1
    Monotone     seq_len +; micro_batch +; d_model +; pp +; shards -
    Source       Korthikanti et al. 2022, section 4.3, first term, arXiv:2205.05198
    """
    return seq_len * micro_batch * d_model * pp * bytes_per_mask / shards
