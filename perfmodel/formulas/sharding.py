r"""Bytes that a change of sharding moves, and what tensor parallelism and ZeRO move with them.

A tensor of `n_bytes` on a group of ranks is split (each rank holds a part), broadcast (each holds all of it) or partial
(each holds a summand of all of it). Bytes are those of the whole group, each counted once, where it arrives. Which pair
of signatures needs which formula: `perfmodel.predict.sharding.conversion_bytes`.
"""

from perfmodel.formulas._registry import formula

__all__ = [
    "disjoint_conversion_bytes",
    "partial_to_broadcast_bytes",
    "partial_to_split_bytes",
    "split_to_broadcast_bytes",
    "split_to_split_bytes",
    "tensor_parallel_forward_bytes",
    "tensor_parallel_step_bytes",
    "tensor_parallel_weight_bytes",
    "zero_communication_bytes",
]


@formula
def split_to_split_bytes(n_bytes, ranks):
    r"""Bytes a group moves to split a tensor along another axis: an all-to-all, of which the own share stays.

    .. math:: B = \frac{p-1}{p} |T|

    Symbols      |T|  n_bytes [B] the whole tensor;  p  ranks [1] ranks;  returns [B]
    Assumptions  equal parts
    Valid for    n_bytes >= 0; 1 <= ranks <= 1e6
    Monotone     n_bytes +; ranks +
    Limits       ranks = 1 -> 0
    Source       Yuan et al. 2021, "OneFlow", arXiv:2110.15032 (SBP signatures); as OneFlow computes it:
                 ComputCopyCostBetweenTwoSbpParallel in oneflow/core/framework/sbp_infer_util.cpp,
                 github.com/Oneflow-Inc/oneflow
    Example      >>> split_to_split_bytes(1024, 4)
                 768.0
    """
    return n_bytes * (ranks - 1) / ranks


@formula
def split_to_broadcast_bytes(n_bytes, ranks):
    r"""Bytes a group moves to give every rank the whole of a split tensor: an all-gather.

    .. math:: B = (p-1) |T|

    Symbols      |T|  n_bytes [B] the whole tensor;  p  ranks [1] ranks;  returns [B]
    Assumptions  equal parts
    Valid for    n_bytes >= 0; 1 <= ranks <= 1e6
    Monotone     n_bytes +; ranks +
    Limits       ranks = 1 -> 0
    Source       Yuan et al. 2021, "OneFlow", arXiv:2110.15032 (SBP signatures); as in `split_to_split_bytes`
    """
    return n_bytes * (ranks - 1)


@formula
def partial_to_split_bytes(n_bytes, ranks):
    r"""Bytes a group moves to sum partial tensors and leave each rank its part: a reduce-scatter.

    .. math:: B = (p-1) |T|

    Symbols      |T|  n_bytes [B] the whole tensor;  p  ranks [1] ranks;  returns [B]
    Assumptions  equal parts; a sum is as large as a summand
    Valid for    n_bytes >= 0; 1 <= ranks <= 1e6
    Monotone     n_bytes +; ranks +
    Limits       ranks = 1 -> 0
    Source       Yuan et al. 2021, "OneFlow", arXiv:2110.15032 (SBP signatures); as in `split_to_split_bytes`
    """
    return n_bytes * (ranks - 1)


@formula
def partial_to_broadcast_bytes(n_bytes, ranks):
    r"""Bytes a group moves to give every rank the sum of partial tensors: an all-reduce.

    .. math:: B = 2 (p-1) |T|

    Symbols      |T|  n_bytes [B] the whole tensor;  p  ranks [1] ranks;  returns [B]
    Assumptions  a reduce-scatter and an all-gather
    Valid for    n_bytes >= 0; 1 <= ranks <= 1e6
    Monotone     n_bytes +; ranks +
    Limits       ranks = 1 -> 0
    Source       Yuan et al. 2021, "OneFlow", arXiv:2110.15032 (SBP signatures); as in `split_to_split_bytes`
    """
    return partial_to_split_bytes(n_bytes, ranks) + split_to_broadcast_bytes(n_bytes, ranks)


@formula
def disjoint_conversion_bytes(n_bytes, source_terms=1, target_copies=1):
    r"""Bytes that move a tensor to other devices: every summand leaves once, and every further copy arrives once.

    .. math:: B = (p_P + p_B - 1) |T|

    Symbols      |T|  n_bytes [B] the whole tensor;
                 p_P  source_terms [1] ranks of the source if it is partial, else 1;
                 p_B  target_copies [1] ranks of the target if it is broadcast, else 1;  returns [B]
    Assumptions  no device belongs to both groups; summands are added where they arrive; copies are made from parts
                 inside the target group; a partial target takes the sum on one rank and zeros on the others
    Valid for    n_bytes >= 0; 1 <= source_terms <= 1e6; 1 <= target_copies <= 1e6
    Monotone     n_bytes +; source_terms +; target_copies +
    Source       Yuan et al. 2021, "OneFlow", arXiv:2110.15032 (SBP signatures), disjoint devices; as in
                 `split_to_split_bytes`
    """
    return n_bytes * (source_terms + target_copies - 1)


@formula
def tensor_parallel_forward_bytes(n_tokens, d_model, tp, bytes_per_activation=2, all_reduces=2):
    r"""Bytes a tensor-parallel group moves in the forward pass of one transformer block.

    The first matrix of a pair is split by columns, the second by rows: what lies between them stays split, and the
    result is partial. Attention and feed-forward are one pair each, so a block needs two all-reduces.

    .. math:: B = 2 a\,(p-1)\,n\,h\,w

    Symbols      n  n_tokens [1] tokens of the batch;  h  d_model [1] hidden size;  p  tp [1] ranks;
                 w  bytes_per_activation [B] element of the activations;
                 a  all_reduces [1] pairs of a split by columns and a split by rows;  returns [B]
    Assumptions  inputs and outputs of the block are on every rank (no sequence parallelism, which moves the same bytes)
    Valid for    n_tokens >= 0; d_model >= 1; 1 <= tp <= 1e6; all_reduces >= 0
    Monotone     n_tokens +; d_model +; tp +; all_reduces +
    Limits       tp = 1 -> 0; all_reduces = 0 -> 0
    Source       Shoeybi et al. 2019, "Megatron-LM", arXiv:1909.08053, section 3; the two rules for any model: Tan et
                 al. 2023, "Redco", arXiv:2310.16355
    """
    return all_reduces * partial_to_broadcast_bytes(n_tokens * d_model * bytes_per_activation, tp)


@formula
def tensor_parallel_step_bytes(n_tokens, d_model, n_layers, tp, bytes_per_activation=2, passes=2):
    r"""Bytes a tensor-parallel group moves for the blocks of a model in one training step.

    .. math:: B = 4 k\,L\,(p-1)\,n\,h\,w

    Symbols      n  n_tokens [1] tokens of the step;  h  d_model [1] hidden size;  L  n_layers [1] blocks;
                 p  tp [1] ranks;  w  bytes_per_activation [B] element of the activations;
                 k  passes [1] 2 for forward and backward, 3 with full recomputation;  returns [B]
    Assumptions  the backward of a pair reduces the gradient of its input as the forward reduces its output
    Valid for    n_tokens >= 0; d_model >= 1; n_layers >= 0; 1 <= tp <= 1e6; passes >= 0
    Monotone     n_tokens +; d_model +; n_layers +; tp +; passes +
    Limits       tp = 1 -> 0; n_layers = 0 -> 0
    Source       Shoeybi et al. 2019, "Megatron-LM", arXiv:1909.08053, section 3 (operators f and g)
    """
    return passes * n_layers * tensor_parallel_forward_bytes(n_tokens, d_model, tp, bytes_per_activation)


@formula
def tensor_parallel_weight_bytes(split_params, replicated_params, tp, bytes_per_weight=2):
    r"""Bytes of weights on each rank of a tensor-parallel group.

    .. math:: B = w \left(\frac{\Psi_s}{p} + \Psi_r\right)

    Symbols      \Psi_s  split_params [1] parameters of matrices split by columns or rows;
                 \Psi_r  replicated_params [1] parameters on every rank (norms, biases of row-split matrices);
                 p  tp [1] ranks;  w  bytes_per_weight [B] bytes of one parameter;  returns [B]
    Assumptions  dimensions divide by the ranks
    Valid for    split_params >= 0; replicated_params >= 0; 1 <= tp <= 1e6
    Monotone     split_params +; replicated_params +; tp -
    Source       Tan et al. 2023, "Redco", arXiv:2310.16355 (two rules to split the tensors of any model)
    """
    return bytes_per_weight * (split_params / tp + replicated_params)


@formula
def zero_communication_bytes(n_params, weight_gathers=1, bytes_per_param=2):
    r"""Bytes that each data-parallel rank sends in a step: gradients reduce-scattered, weights gathered.

    .. math:: B = w \Psi (1 + g)

    Symbols      \Psi  n_params [1] parameters of the rank;
                 g  weight_gathers [1] 1 for an all-reduce or ZeRO-1 and 2 (an all-gather of what was updated), 2 for
                 ZeRO-3 (before the forward and before the backward pass);
                 w  bytes_per_param [B] of a weight and of a gradient;  returns [B]
    Assumptions  many ranks: the exact share is (p - 1) / p of it; one gradient accumulation
    Valid for    n_params >= 0; weight_gathers >= 0
    Monotone     n_params +; weight_gathers +
    Limits       n_params = 0 -> 0
    Source       Rajbhandari et al. 2020, "ZeRO", arXiv:1910.02054, section 7 (2 Psi, 2 Psi and 3 Psi elements)
    """
    return bytes_per_param * n_params * (1 + weight_gathers)
