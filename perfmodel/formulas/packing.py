r"""Batches of sequences of unequal length: what padding wastes, and what ranks wait for when nothing is padded."""

from perfmodel.formulas._registry import formula
from perfmodel.formulas.overlap import expected_maximum_of_normals
from perfmodel.ops import sqrt

__all__ = [
    "expected_longest_of_normal_lengths",
    "expected_longest_of_uniform_lengths",
    "packed_attention_pairs",
    "packed_attention_share",
    "padded_attention_pairs",
    "unpadded_speedup",
    "unpadded_straggler_slowdown",
    "useful_token_share",
]


@formula
def useful_token_share(mean_length, padded_length):
    r"""Share of the tokens of a padded batch that carry data.

    .. math:: u = \bar l / L

    Symbols      \bar{l}  mean_length [1] mean tokens of a sequence;
                 L  padded_length [1] tokens to which every sequence is padded;  returns [1]
    Valid for    mean_length >= 0; padded_length >= 1; fails when mean_length > padded_length
    Monotone     mean_length +; padded_length -
    Limits       mean_length = 0 -> 0
    Source       Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination", arXiv:2107.02027
    """
    return mean_length / padded_length


@formula
def unpadded_speedup(mean_length, padded_length):
    r"""Sequences per second without padding over those with it, where time goes with tokens: the bound of packing.

    .. math:: S = L / \bar l

    Symbols      \bar{l}  mean_length [1] mean tokens of a sequence;
                 L  padded_length [1] tokens to which every sequence is padded;  returns [1]
    Assumptions  time proportional to tokens; attention gains more (`packed_attention_share`), fixed costs gain nothing
    Valid for    mean_length >= 1; padded_length >= 1
    Monotone     mean_length -; padded_length +
    Source       Krell et al. 2021, arXiv:2107.02027, abstract (half the tokens are padding at 512: 2x)
    Checked      Krell et al. 2021: 2x for Wikipedia at 512
    """
    return padded_length / mean_length


@formula
def expected_longest_of_uniform_lengths(shortest, longest, draws):
    r"""Expected length of the longest of `draws` sequences with lengths spread evenly: what a batch is padded to.

    .. math:: E = a + (b - a) \frac{n}{n+1}

    Symbols      a  shortest [1] shortest length;  b  longest [1] longest length;  n  draws [1] sequences of the batch;
                 returns [1]
    Assumptions  independent lengths, continuous between the two bounds
    Valid for    shortest >= 0; longest >= 0; draws >= 1; fails when shortest > longest
    Monotone     longest +; shortest +
    Source       David, Nagaraja 2003, "Order Statistics", section 2.1 (largest of n uniform draws: n / (n + 1))
    """
    return shortest + (longest - shortest) * draws / (draws + 1)


@formula
def expected_longest_of_normal_lengths(mean_length, length_deviation, draws):
    r"""Expected length of the longest of `draws` sequences with normally spread lengths: what a batch is padded to.

    .. math:: E = \bar l + \sigma E_n

    Symbols      \bar{l}  mean_length [1] mean tokens;  \sigma  length_deviation [1] standard deviation of the tokens;
                 n  draws [1] sequences of the batch;  returns [1]
    Assumptions  independent lengths; those of `expected_maximum_of_normals`
    Valid for    mean_length >= 0; length_deviation >= 0; 1 <= draws <= 1e7
    Monotone     mean_length +; length_deviation +
    Source       Cramer 1946, "Mathematical Methods of Statistics", section 28.6
    """
    return mean_length + length_deviation * expected_maximum_of_normals(draws)


@formula
def unpadded_straggler_slowdown(mean_length, length_deviation, sequences_per_rank, dp):
    r"""Relative wait of a data-parallel step for the rank whose sequences happen to be longest, without padding.

    .. math:: \delta = \frac{\sigma}{\bar l \sqrt{b}} E_p

    Symbols      \bar{l}  mean_length [1] mean tokens;  \sigma  length_deviation [1] standard deviation of the tokens;
                 b  sequences_per_rank [1] sequences of a rank and step;  p  dp [1] data-parallel ranks;  returns [1]
    Assumptions  time proportional to tokens; independent lengths, so many that their sum is normal; no rank gives
                 sequences away (exchanging them to equal sums makes it zero)
    Valid for    mean_length >= 1; length_deviation >= 0; sequences_per_rank >= 1; 1 <= dp <= 1e7
    Monotone     mean_length -; length_deviation +; sequences_per_rank -
    Limits       dp = 1 -> 0; length_deviation = 0 -> 0
    Source       the problem: Zeng et al. 2022, "Boosting Distributed Training Performance of the Unpadded BERT Model",
                 arXiv:2208.08124, abstract (unbalanced load of variable-length inputs); derived: central limit
                 theorem and `expected_maximum_of_normals`
    """
    return length_deviation * expected_maximum_of_normals(dp) / (mean_length * sqrt(sequences_per_rank))


@formula
def padded_attention_pairs(sequences, padded_length):
    r"""Pairs of query and key in full attention over a padded batch.

    .. math:: N = b L^2

    Symbols      b  sequences [1] sequences;  L  padded_length [1] tokens to which each is padded;  returns [1]
    Valid for    sequences >= 0; padded_length >= 1
    Monotone     sequences +; padded_length +
    Limits       sequences = 0 -> 0
    Source       Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3.2.1
    """
    return sequences * padded_length**2


@formula
def packed_attention_pairs(sequences, mean_length, length_deviation):
    r"""Pairs of query and key when every sequence attends to itself alone: the sum of squared lengths.

    .. math:: N = b (\bar l^2 + \sigma^2)

    Symbols      b  sequences [1] sequences;  \bar{l}  mean_length [1] mean tokens;
                 \sigma  length_deviation [1] standard deviation of the tokens;  returns [1]
    Assumptions  a kernel that skips what lies between sequences of one pack
    Valid for    sequences >= 0; mean_length >= 0; length_deviation >= 0
    Monotone     sequences +; mean_length +; length_deviation +
    Limits       sequences = 0 -> 0
    Source       derived: mean of squares = square of the mean + variance; for the packed kernel Zeng et al. 2022,
                 arXiv:2208.08124 (grouped FMHA) and Krell et al. 2021, arXiv:2107.02027 (block-diagonal mask)
    """
    return sequences * (mean_length**2 + length_deviation**2)


@formula
def packed_attention_share(mean_length, length_deviation, padded_length):
    r"""Attention work without padding over that with it.

    .. math:: s = \frac{\bar l^2 + \sigma^2}{L^2}

    Symbols      \bar{l}  mean_length [1] mean tokens;  \sigma  length_deviation [1] standard deviation of the tokens;
                 L  padded_length [1] tokens to which each is padded;  returns [1]
    Assumptions  those of `packed_attention_pairs`
    Valid for    mean_length >= 0; length_deviation >= 0; padded_length >= 1
    Monotone     mean_length +; length_deviation +; padded_length -
    Source       derived: `packed_attention_pairs` over `padded_attention_pairs`
    """
    return packed_attention_pairs(1, mean_length, length_deviation) / padded_attention_pairs(1, padded_length)
