r"""Data acquisition: stages that keep some of their input, and the energy of what is worth keeping."""

from perfmodel.formulas._registry import formula

__all__ = ["energy_per_relevant_sample", "f1_score", "kept_per_s", "relevant_per_s", "stage_power"]


@formula
def kept_per_s(input_per_s, relevant_share, recall, false_positive_rate):
    r"""Samples that a stage passes on: the relevant ones it recognises and the others it mistakes for them.

    .. math:: r' = r\,(q R + (1 - q) F)

    Symbols      r  input_per_s [1/s] samples into the stage;  q  relevant_share [1] of them relevant;
                 R  recall [1] of the stage;  F  false_positive_rate [1] of the stage;  returns [1/s]
    Valid for    input_per_s >= 0; relevant_share <= 1; recall <= 1; false_positive_rate <= 1
    Monotone     input_per_s +; recall +; false_positive_rate +
    Source       definitions of recall and false positive rate
    """
    return input_per_s * (relevant_share * recall + (1 - relevant_share) * false_positive_rate)


@formula
def relevant_per_s(input_per_s, relevant_share, recall):
    r"""Relevant samples that a stage passes on.

    .. math:: r^{+} = r q R

    Symbols      r  input_per_s [1/s] samples into the stage;  q  relevant_share [1] of them relevant;
                 R  recall [1] of the stage;  returns [1/s]
    Valid for    input_per_s >= 0; relevant_share <= 1; recall <= 1
    Monotone     input_per_s +; relevant_share +; recall +
    Source       definition of recall
    """
    return input_per_s * relevant_share * recall


@formula
def f1_score(precision, recall):
    r"""Harmonic mean of precision and recall.

    .. math:: F_1 = \frac{2 P R}{P + R}

    Symbols      P  precision [1] relevant share of what is kept;  R  recall [1] kept share of what is relevant;
                 returns [1]
    Valid for    1e-9 <= precision <= 1; 1e-9 <= recall <= 1
    Monotone     precision +; recall +
    Source       van Rijsbergen 1979, "Information Retrieval", chapter 7
    """
    return 2 * precision * recall / (precision + recall)


@formula
def stage_power(input_per_s, operations_per_sample, joules_per_operation, sample_bytes, joules_per_byte):
    r"""Power of a stage: operations on every sample, and moving it there.

    .. math:: P = r\,(o\,e_o + b\,e_b)

    Symbols      r  input_per_s [1/s] samples into the stage;  o  operations_per_sample [1] of its algorithm;
                 e_o  joules_per_operation [J] of its technology;  b  sample_bytes [B] of one sample;
                 e_b  joules_per_byte [J/B] of the link before it;  returns [W]
    Assumptions  power follows the work; what idles is switched off
    Valid for    input_per_s >= 0; operations_per_sample >= 0; joules_per_operation >= 0; sample_bytes >= 0;
                 joules_per_byte >= 0
    Monotone     input_per_s +; operations_per_sample +; joules_per_operation +; sample_bytes +; joules_per_byte +
    Source       Olin-Ammentorp, Wu and Chien 2024, "Modeling Performance of Data Collection Systems for High-Energy
                 Physics", arXiv:2407.00123, section 2
    """
    return input_per_s * (operations_per_sample * joules_per_operation + sample_bytes * joules_per_byte)


@formula
def energy_per_relevant_sample(power_w, relevant_per_s):
    r"""Energy for each relevant sample that reaches the end.

    .. math:: e = P / r^{+}

    Symbols      P  power_w [W] of all stages;  r^{+}  relevant_per_s [1/s] relevant samples kept;  returns [J]
    Valid for    power_w >= 0; relevant_per_s >= 1e-12
    Monotone     power_w +; relevant_per_s -
    Source       Olin-Ammentorp, Wu and Chien 2024, arXiv:2407.00123, energy per relevant sample
    """
    return power_w / relevant_per_s
