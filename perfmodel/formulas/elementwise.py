r"""Memory-bound kernels: element-wise operations, loss and optimizer are traffic over a bandwidth."""

from perfmodel.formulas._registry import formula

__all__ = ["elementwise_time", "optimizer_bytes", "vocabulary_loss_bytes"]


@formula
def elementwise_time(n_bytes, byte_per_s, memory_efficiency, launches, launch_s):
    r"""Time of a chain of element-wise kernels.

    .. math:: T = n\,t_0 + \frac{B}{e_m \beta}

    Symbols      B  n_bytes [B] read plus written;  \beta  byte_per_s [B/s] memory bandwidth;
                 e_m  memory_efficiency [1] share of the bandwidth reached;  n  launches [1] kernels;
                 t_0  launch_s [s] floor of one kernel;  returns [s]
    Valid for    n_bytes >= 0; 0 <= memory_efficiency <= 1; launches >= 0; launch_s >= 0
    Monotone     n_bytes +; byte_per_s -; memory_efficiency -; launches +; launch_s +
    Source       Ivanov et al. 2021, "Data movement is all you need", arXiv:2007.00072, section 4 (element-wise
                 operators are bound by memory traffic)
    """
    return launches * launch_s + n_bytes / (memory_efficiency * byte_per_s)


@formula
def optimizer_bytes(n_params, bytes_per_param):
    r"""Memory traffic of one optimizer step over the parameters that a rank owns.

    .. math:: B = b\,N

    Symbols      N  n_params [1] parameters updated by this rank;  b  bytes_per_param [B] read plus written for each;
                 returns [B]
    Assumptions  mixed-precision Adam reads master weight, both moments and gradient and writes all but the gradient
                 (28 B), writes the 16-bit weight (2 B), and before it unscales, checks and clips the gradient
    Valid for    n_params >= 0; bytes_per_param >= 0
    Monotone     n_params +; bytes_per_param +
    Source       Rajbhandari et al. 2020, "ZeRO", arXiv:1910.02054, section 3.1 (the states of mixed-precision Adam)
    """
    return n_params * bytes_per_param


@formula
def vocabulary_loss_bytes(tokens, vocab_columns, bytes_per_logit):
    r"""Memory traffic of softmax and cross entropy over the vocabulary, forward and backward.

    .. math:: B = b\,T\,V

    Symbols      T  tokens [1] tokens of the micro-batch;  V  vocab_columns [1] vocabulary columns of this rank;
                 b  bytes_per_logit [B] read plus written for each logit;  returns [B]
    Assumptions  every pass over the logits goes through memory
    Valid for    tokens >= 0; vocab_columns >= 0; bytes_per_logit >= 0
    Monotone     tokens +; vocab_columns +; bytes_per_logit +
    Source       Shoeybi et al. 2019, "Megatron-LM", arXiv:1909.08053, section 3 (parallel cross entropy)
    """
    return bytes_per_logit * tokens * vocab_columns
