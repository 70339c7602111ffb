r"""Laws of data: repetition, filtering, pruning, retrieval, mixtures, and abilities that only seem to emerge."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import exp, log, minimum

__all__ = [
    "datastore_compute_flops",
    "filtering_error",
    "improvement_probability",
    "pass_rate_of_params",
    "pool_half_life",
    "projected_performance",
    "pruned_exponential_error",
    "repeated_data_loss",
    "repeated_tokens_value",
    "utility_after_epochs",
]


@formula
def repeated_tokens_value(unique_tokens, epochs, half_life=15.387756):
    r"""Unique tokens that are worth as much as a data set repeated so many times.

    .. math:: D' = U + U R^* \left(1 - e^{-R/R^*}\right), \quad R = \text{epochs} - 1

    Symbols      U  unique_tokens [1] of the data set;  n  epochs [1] over it;  R^*  half_life [1] repetitions after
                 which most of their worth is gone, fitted;  returns [1]
    Valid for    unique_tokens >= 0; 1 <= epochs <= 1000; 0.1 <= half_life <= 100
    Monotone     unique_tokens +; epochs +; half_life +
    Source       Muennighoff et al. 2023, "Scaling Data-Constrained Language Models", arXiv:2305.16264; also for
                 parameters beyond the optimum of the unique data, with 5.309743
    """
    return unique_tokens * (1 + half_life * (1 - exp(-(epochs - 1) / half_life)))


@formula
def repeated_data_loss(
    effective_params,
    effective_tokens,
    irreducible=1.8691437,
    params_scale=520.82495,
    tokens_scale=1487.7161,
    exponent=0.3526596,
):
    r"""Loss of a language model trained on repeated data, in nats per token.

    .. math:: L = E + A N'^{-\alpha} + B D'^{-\alpha}

    Symbols      N'  effective_params [1] after excess parameters;  D'  effective_tokens [1] `repeated_tokens_value`;
                 E  irreducible [1] loss;  A  params_scale [1] fitted;  B  tokens_scale [1] fitted;
                 \alpha  exponent [1] of both;  returns [1]
    Valid for    effective_params >= 1e6; effective_tokens >= 1e6; irreducible >= 0; params_scale >= 0;
                 tokens_scale >= 0; 0.01 <= exponent <= 1
    Monotone     effective_params -; effective_tokens -
    Source       Muennighoff et al. 2023, appendix A, arXiv:2305.16264 (ln A 6.255414, ln B 7.3049974, ln E
                 0.6254804)
    """
    return irreducible + params_scale * effective_params ** (-exponent) + tokens_scale * effective_tokens ** (-exponent)


@formula
def utility_after_epochs(utility, epochs, half_life):
    r"""Utility of a data pool in its j-th further epoch.

    .. math:: b_j = b\, (1/2)^{j / \tau}

    Symbols      b  utility [1] exponent of the first epoch;  j  epochs [1] seen before;
                 \tau  half_life [1] epochs that halve it;  returns [1]
    Valid for    utility >= 0; epochs >= 0; 0.01 <= half_life <= 1000
    Monotone     utility +; epochs -; half_life +
    Source       Goyal et al. 2024, "Scaling Laws for Data Filtering -- Data Curation cannot be Compute Agnostic",
                 arXiv:2404.07177
    """
    return utility * exp(-log(2) * epochs / half_life)


@formula
def pool_half_life(pools, half_life):
    r"""Half-life of the utility of a mixture: each pool is seen as many times less often as there are pools.

    .. math:: \hat\tau = p\, \tau

    Symbols      p  pools [1] of equal size in the mixture;  \tau  half_life [1] epochs of one;  returns [1]
    Assumptions  equal pools with one half-life; their utilities are averaged
    Valid for    pools >= 1; half_life >= 0
    Monotone     pools +; half_life +
    Source       Goyal et al. 2024 (theorem on heterogeneous pools), arXiv:2404.07177
    """
    return pools * half_life


@formula
def filtering_error(scale, samples, epoch_samples, utility, half_life, irreducible=0):
    r"""Error after two epochs over one filtered pool, whose utility decays as it is repeated.

    .. math:: y = (a n_1)^{-b} \left(\frac{n}{n_1}\right)^{-b_1} + d, \quad n_1 = \min(n, e)

    Symbols      a  scale [1] of samples, fitted;  n  samples [1] seen, up to two epochs;
                 e  epoch_samples [1] in the pool;  b  utility [1] exponent of the first epoch;
                 \tau  half_life [1] epochs that halve it;  d  irreducible [1] error;  returns [1]
    Assumptions  the paper's form, with d added once; the authors' objective.py adds it to the first factor and so
                 scales it too. Further epochs multiply further ratios (`filtered_error` of perfmodel.predict does so)
    Valid for    scale >= 1; samples >= 1; epoch_samples >= 1; 0 <= utility <= 1; 0.1 <= half_life <= 100;
                 irreducible >= 0
    Monotone     samples -; irreducible +
    Source       Goyal et al. 2024, arXiv:2404.07177
    """
    first = minimum(samples, epoch_samples)
    later = utility_after_epochs(utility, 1, half_life)
    return (scale * first) ** (-utility) * (samples / first) ** (-later) + irreducible


@formula
def pruned_exponential_error(examples_per_param, rate, scale=1):
    r"""Error where the share of data kept shrinks optimally as data grows: exponential instead of a power law.

    .. math:: \epsilon = c\, e^{-r \alpha}

    Symbols      \alpha  examples_per_param [1] kept, for a parameter;  r  rate [1] of the perceptron's theory, fitted;
                 c  scale [1] fitted;  returns [1]
    Assumptions  a perfect ranking of examples by difficulty and a share kept that falls with the data; with random
                 pruning the power law 1/alpha stays
    Valid for    0 <= examples_per_param <= 100; 0 <= rate <= 5; scale >= 0
    Monotone     examples_per_param -; rate -; scale +
    Source       Sorscher et al. 2022, "Beyond neural scaling laws: beating power law scaling via data pruning",
                 arXiv:2206.14486 (statement; no compact closed form is printed)
    """
    return scale * exp(-rate * examples_per_param)


@formula
def pass_rate_of_params(n_params, scale, exponent):
    r"""Pass rate of one sample from the size of a model: smooth where accuracy seems to emerge.

    .. math:: p = \exp(-c N^{-\alpha})

    Symbols      N  n_params [1] of the model;  c  scale [1] fitted;  \alpha  exponent [1] fitted;  returns [1]
    Assumptions  ln(-ln p) is linear in ln N; rates down to 1e-5 are measured by sampling until a pass, 1/p samples
    Valid for    1e6 <= n_params <= 1e13; 1 <= scale <= 1000; 0.1 <= exponent <= 1
    Monotone     n_params +; scale -
    Source       Hu et al. 2023, "Predicting Emergent Abilities with Infinite Resolution Evaluation" (PassUntil; earlier
                 title "Unlock Predictable Scaling from Emergent Abilities"), arXiv:2310.03262
    """
    return exp(-scale * n_params ** (-exponent))


@formula
def datastore_compute_flops(n_params, tokens, index_params, datastore_tokens, training_flop=6, inference_flop=2):
    r"""Operations of pretraining a model and of embedding a datastore that it retrieves from.

    .. math:: 6 N D + 2 N_r D_s

    Symbols      N  n_params [1] of the model;  D  tokens [1] trained on;  N_r  index_params [1] of the retriever;
                 D_s  datastore_tokens [1] embedded;  f_t  training_flop [flop] for a parameter and a token;
                 f_i  inference_flop [flop] the same;  returns [flop]
    Valid for    n_params >= 0; tokens >= 0; index_params >= 0; datastore_tokens >= 0
    Monotone     n_params +; tokens +; index_params +; datastore_tokens +
    Source       Shao et al. 2024, "Scaling Retrieval-Based Language Models with a Trillion-Token Datastore",
                 arXiv:2407.12854
    """
    return training_flop * n_params * tokens + inference_flop * index_params * datastore_tokens


@formula
def projected_performance(small_performance, small_samples, larger_performance, larger_samples, samples):
    r"""Performance at a larger amount of data, extrapolated in its logarithm from two smaller ones.

    .. math:: v_2 + \frac{\ln(n / n_2)}{\ln(n_2 / n_1)} (v_2 - v_1)

    Symbols      v_1  small_performance [1] measured at n_1;  n_1  small_samples [1] of the smaller set;
                 v_2  larger_performance [1] measured at n_2;  n_2  larger_samples [1] of the larger set;
                 n  samples [1] to predict for;  returns [1]
    Assumptions  no fitted parameter; the distance of the mixture to the target adds a linear term that needs data
    Valid for    0 <= small_performance <= 1; 1 <= small_samples <= 100; 0 <= larger_performance <= 1;
                 200 <= larger_samples <= 1e9; samples >= 1
    Source       Kang et al. 2023, "Performance Scaling via Optimal Transport: Enabling Data Selection from Partially
                 Revealed Sources" (projektor), arXiv:2307.02460
    """
    gained = (larger_performance - small_performance) / log(larger_samples / small_samples)
    return larger_performance + gained * log(samples / larger_samples)


@formula
def improvement_probability(iterations, scale=1):
    r"""Probability that an iteration of an evolving agent improves on the best so far: it falls as one over them.

    .. math:: c / t

    Symbols      t  iterations [1] made;  c  scale [1] at the first;  returns [1]
    Assumptions  as records of independent draws; the size of an improvement falls as one over their number
    Valid for    iterations >= 1; 0 <= scale <= 1
    Monotone     iterations -; scale +
    Source       dual power law of "Frontier-Eng: Benchmarking Self-Evolving Agents on Real-World Engineering Tasks with
                 Generative Optimization", abstract; records of independent draws: Renyi 1962 (theory of records)
    """
    return scale / iterations
