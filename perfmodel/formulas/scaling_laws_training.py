r"""Laws beyond Chinchilla: over-training, parallel streams, precision, experts, and costs over a lifetime."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import exp, log, maximum

__all__ = [
    "chinchilla_tokens_for_loss",
    "downstream_error",
    "effective_precision_params",
    "expert_scaling_loss",
    "lifetime_cost_usd",
    "lifetime_flops",
    "overtraining_loss",
    "parscale_aggregation_params",
    "parscale_equivalent_params",
    "parscale_loss",
    "precision_share",
    "quantization_loss",
    "recursion_depth_flops",
    "routed_scaling_loss",
]


@formula
def overtraining_loss(compute_flops, tokens_per_param, irreducible, params_scale, tokens_scale, exponent, flop_unit=1):
    r"""Loss from compute and the ratio of tokens to parameters: over-training shifts the line but not its slope.

    .. math:: L = E + \left(a M^{\eta} + b M^{-\eta}\right) C^{-\eta}

    Symbols      C  compute_flops [flop] of the run;  M  tokens_per_param [1] tokens over parameters;
                 E  irreducible [1] loss;  a  params_scale [1] fitted;  b  tokens_scale [1] fitted;
                 \eta  exponent [1] of compute, half of that of parameters and of tokens;
                 u  flop_unit [flop] unit of compute in the fit;  returns [1]
    Assumptions  equal exponents for parameters and tokens; C = 6 N D
    Valid for    compute_flops >= 1e12; 5 <= tokens_per_param <= 640; irreducible >= 0; params_scale >= 0;
                 tokens_scale >= 0; 0.01 <= exponent <= 0.5
    Monotone     compute_flops -; irreducible +; params_scale +; tokens_scale +
    Source       Gadre et al. 2024, "Language models scale reliably with over-training and on downstream tasks",
                 arXiv:2403.08540
    Checked      a 7B and an over-trained 1.4B model predicted from runs with a hundredth of their compute
                 (tests/test_scaling_laws.py)
    """
    shape = params_scale * tokens_per_param**exponent + tokens_scale * tokens_per_param ** (-exponent)
    return irreducible + shape * (compute_flops / flop_unit) ** (-exponent)


@formula
def downstream_error(loss, worst, scale, rate):
    r"""Average error on downstream tasks from the loss.

    .. math:: Err = \epsilon - k e^{-\gamma L}

    Symbols      L  loss [1] in nats per token;  \epsilon  worst [1] error at a large loss;  k  scale [1] fitted;
                 \gamma  rate [1] fitted;  returns [1]
    Assumptions  an average over many tasks; single tasks are far less smooth
    Valid for    0 <= loss <= 12; 0 <= worst <= 1; 0 <= scale <= 10; 0 <= rate <= 10
    Monotone     loss +; worst +; scale -
    Source       Gadre et al. 2024, arXiv:2403.08540
    """
    return worst - scale * exp(-rate * loss)


@formula
def parscale_loss(n_params, streams, irreducible, scale, exponent, gain, params_unit=1e9):
    r"""Loss of a model that runs P parallel streams over the same weights, in nats per token.

    .. math:: L = E + \left(\frac{A}{(N/10^9)(1 + k \ln P)}\right)^{\alpha}

    Symbols      N  n_params [1] without embeddings;  P  streams [1] in parallel;  E  irreducible [1] loss;
                 A  scale [1] fitted;  \alpha  exponent [1] fitted;  k  gain [1] of a stream, fitted;
                 u  params_unit [1] unit of parameters in the fit;  returns [1]
    Assumptions  trained with the streams; one data set, one number of tokens
    Valid for    n_params >= 1e6; 1 <= streams <= 8; irreducible >= 0; 0.0001 <= scale <= 10; 0.01 <= exponent <= 1;
                 0 <= gain <= 2
    Monotone     n_params -; streams -; irreducible +; scale +; gain -
    Source       Chen et al. 2025, "Parallel Scaling Law for Language Models", arXiv:2505.10475
    Checked      48 losses of the authors' table: R2 .998 and .999 after a refit (tests/test_scaling_laws.py)
    """
    return irreducible + (scale / (n_params / params_unit * (1 + gain * log(streams)))) ** exponent


@formula
def parscale_equivalent_params(n_params, streams, gain):
    r"""Parameters of a plain model with the loss of one that runs P parallel streams.

    .. math:: N (1 + k \ln P)

    Symbols      N  n_params [1] without embeddings;  P  streams [1] in parallel;  k  gain [1] of a stream, fitted;
                 returns [1]
    Valid for    n_params >= 1; 1 <= streams <= 8; 0 <= gain <= 2
    Monotone     n_params +; streams +; gain +
    Source       Chen et al. 2025, arXiv:2505.10475
    """
    return n_params * (1 + gain * log(streams))


@formula
def parscale_aggregation_params(streams, d_model):
    r"""Parameters that weigh the outputs of P parallel streams.

    .. math:: (h + 1)\, h\, P

    Symbols      P  streams [1] in parallel;  h  d_model [1] width;  returns [1]
    Valid for    streams >= 1; d_model >= 1
    Monotone     streams +; d_model +
    Source       cost_analysis.py of github.com/QwenLM/ParScale (Chen et al. 2025, arXiv:2505.10475)
    """
    return (d_model + 1) * d_model * streams


@formula
def precision_share(bits, constant, bias=0):
    r"""Share of a model's parameters that remain effective when trained with so many bits.

    .. math:: 1 - e^{-P / \gamma + n}

    Symbols      P  bits [1] of weights, activations or the cache;  \gamma  constant [1] fitted;  n  bias [1] fitted,
                 with the sign under which the text says that e^(P/g) stands for e^(P/g + n): read here as an offset of
                 the exponent;  returns [1]
    Assumptions  nothing remains below zero
    Valid for    3 <= bits <= 32; 0.1 <= constant <= 10; 0 <= bias <= 3
    Monotone     bits +; constant -; bias -
    Source       Kumar et al. 2024, "Scaling Laws for Precision", appendix K, arXiv:2411.04330; the authors
                 warn that the constants do not transfer to other set-ups
    """
    return maximum(0, 1 - exp(bias - bits / constant))


@formula
def effective_precision_params(
    n_params, weight_bits, activation_bits, cache_bits, weight_constant=2.6745, activation_constant=2.2102,
    cache_constant=0.9578, weight_bias=0.3037, activation_bias=1.4072, cache_bias=2.4185,
):  # fmt: skip
    r"""Parameters of a full-precision model that is as good as one trained in low precision.

    .. math:: N_{eff} = N \prod_{x \in \{w, a, kv\}} \left(1 - e^{-P_x/\gamma_x + n_x}\right)

    Symbols      N  n_params [1] of the model;  P_w  weight_bits [1] in training;  P_a  activation_bits [1] in training;
                 P_{kv}  cache_bits [1] of keys and values;  \gamma_w  weight_constant [1] fitted;
                 \gamma_a  activation_constant [1] fitted;  \gamma_{kv}  cache_constant [1] fitted;
                 n_w  weight_bias [1] fitted;  n_a  activation_bias [1] fitted;  n_{kv}  cache_bias [1] fitted;
                 returns [1]
    Assumptions  effects of the three multiply; as `precision_share`
    Valid for    n_params >= 1; 4 <= weight_bits <= 32; 4 <= activation_bits <= 32; 4 <= cache_bits <= 32;
                 0.1 <= weight_constant <= 10; 0.1 <= activation_constant <= 10; 0.1 <= cache_constant <= 10;
                 0 <= weight_bias <= 3; 0 <= activation_bias <= 3; 0 <= cache_bias <= 3
    Monotone     n_params +; weight_bits +; activation_bits +; cache_bits +
    Source       Kumar et al. 2024, appendix K, Table 2, arXiv:2411.04330
    """
    weights = precision_share(weight_bits, weight_constant, weight_bias)
    activations = precision_share(activation_bits, activation_constant, activation_bias)
    return n_params * weights * activations * precision_share(cache_bits, cache_constant, cache_bias)


@formula
def quantization_loss(
    n_params, tokens, bits, scale=0.0598, tokens_exponent=0.5068, params_exponent=0.3439, constant=0.5907, bias=1.1277
):
    r"""Loss that quantising a trained model to so many bits adds, in nats per token: more, the longer it was trained.

    .. math:: \delta = C_T \frac{D^{\gamma_D}}{N^{\gamma_N}} e^{-P / \gamma + b}

    Symbols      N  n_params [1] of the model;  D  tokens [1] trained on;  P  bits [1] after training;
                 C_T  scale [1] fitted;  \gamma_D  tokens_exponent [1] fitted;  \gamma_N  params_exponent [1] fitted;
                 \gamma  constant [1] fitted;  b  bias [1] fitted, read as an offset of the exponent;  returns [1]
    Valid for    n_params >= 1e6; tokens >= 1e6; 3 <= bits <= 32; scale >= 0; 0 <= tokens_exponent <= 1;
                 0 <= params_exponent <= 1; 0.1 <= constant <= 10; 0 <= bias <= 3
    Monotone     tokens +; n_params -; bits -; scale +
    Source       Kumar et al. 2024, appendix K, Table 2, arXiv:2411.04330
    """
    return scale * tokens**tokens_exponent / n_params**params_exponent * exp(bias - bits / constant)


@formula
def expert_scaling_loss(
    active_params, tokens, granularity, irreducible=0.47, params_scale=18.1, params_exponent=0.115, tokens_scale=30.8,
    tokens_exponent=0.147, granularity_scale=2.1, granularity_exponent=0.58,
):  # fmt: skip
    r"""Loss of a mixture of fine-grained experts, in nats per token.

    .. math:: L = c + \left(\frac{g}{G^{\gamma}} + a\right) N^{-\alpha} + b D^{-\beta}

    Symbols      N  active_params [1] without embeddings (sources disagree: total, and at the 64-fold expansion of the
                 fit the two differ by a factor);  D  tokens [1] trained on;  G  granularity [1] width of a dense layer
                 over that of an expert;  c  irreducible [1] loss;  a  params_scale [1] fitted;  \alpha  params_exponent
                 [1] fitted; b  tokens_scale [1] fitted;  \beta  tokens_exponent [1] fitted;  g  granularity_scale [1]
                 fitted; \gamma  granularity_exponent [1] fitted;  returns [1]
    Assumptions  expansion 64; RMSE .019 on the authors' runs
    Valid for    active_params >= 1e6; tokens >= 1e6; 1 <= granularity <= 16; irreducible >= 0;
                 params_scale >= 0; 0.01 <= params_exponent <= 1; tokens_scale >= 0; 0.01 <= tokens_exponent <= 1;
                 granularity_scale >= 0; 0 <= granularity_exponent <= 1
    Monotone     active_params -; tokens -; granularity -
    Source       Krajewski et al. 2024, "Scaling Laws for Fine-Grained Mixture of Experts", arXiv:2402.07871
    """
    width = granularity_scale / granularity**granularity_exponent + params_scale
    return irreducible + width * active_params ** (-params_exponent) + tokens_scale * tokens ** (-tokens_exponent)


@formula
def routed_scaling_loss(n_params, effective_experts, params_slope, experts_slope, interaction, offset):
    r"""Loss of a routed language model, in nats per token.

    .. math:: \ln L = -a \ln N - b \ln \hat E + c \ln N \ln \hat E + d

    Symbols      N  n_params [1] of the dense model;  \hat{E}  effective_experts [1] saturated number;
                 a  params_slope [1] fitted;  b  experts_slope [1] fitted;  c  interaction [1] fitted: routing helps
                 large models less;  d  offset [1] fitted;  returns [1]
    Assumptions  the signs of the paper's coefficients are written out
    Valid for    1e6 <= n_params <= 1e13; 1 <= effective_experts <= 512; 0 <= params_slope <= 0.2;
                 0 <= experts_slope <= 0.3; 0 <= interaction <= 0.01; 0 <= offset <= 5
    Monotone     params_slope -; experts_slope -; offset +
    Source       Clark et al. 2022, "Unified Scaling Laws for Routed Language Models", arXiv:2202.01169
    """
    experts = log(effective_experts)
    return exp(offset - params_slope * log(n_params) - experts_slope * experts + interaction * log(n_params) * experts)


@formula
def chinchilla_tokens_for_loss(
    loss, n_params, irreducible, params_scale, tokens_scale, params_exponent, tokens_exponent
):
    r"""Tokens on which a model of this size reaches a loss.

    .. math:: D = \left(\frac{B}{l - E - A N^{-\alpha}}\right)^{1/\beta}

    Symbols      l  loss [1] to reach;  N  n_params [1] with embeddings;  E  irreducible [1] loss;
                 A  params_scale [1] fitted;  B  tokens_scale [1] fitted;  \alpha  params_exponent [1] fitted;
                 \beta  tokens_exponent [1] fitted;  returns [1]
    Assumptions  `chinchilla_loss`, inverted; fails where the model is too small for the loss
    Valid for    3 <= loss <= 12; n_params >= 1e7; 0 <= irreducible <= 2; 1 <= params_scale <= 10; tokens_scale >= 1;
                 0.3 <= params_exponent <= 1; 0.3 <= tokens_exponent <= 1
    Monotone     loss -; n_params -; tokens_scale +
    Source       Sardana et al. 2024, "Beyond Chinchilla-Optimal: Accounting for Inference in Language Model Scaling
                 Laws", arXiv:2401.00448
    """
    left = loss - irreducible - params_scale * n_params ** (-params_exponent)
    return (tokens_scale / left) ** (1 / tokens_exponent)


@formula
def lifetime_flops(n_params, training_tokens, served_tokens, training_flop=6, inference_flop=2):
    r"""Operations of training a model and of serving it for its lifetime.

    .. math:: 6 N D + 2 N D_{inf}

    Symbols      N  n_params [1] used for a token;  D  training_tokens [1] trained on;
                 D_{inf}  served_tokens [1] over the lifetime, prompts and answers;
                 f_t  training_flop [flop] for a parameter and a token;  f_i  inference_flop [flop] the same;
                 returns [flop]
    Valid for    n_params >= 0; training_tokens >= 0; served_tokens >= 0
    Monotone     n_params +; training_tokens +; served_tokens +
    Source       Sardana et al. 2024, arXiv:2401.00448
    """
    return n_params * (training_flop * training_tokens + inference_flop * served_tokens)


@formula
def lifetime_cost_usd(
    n_params, training_tokens, served_tokens, training_usd_per_flop, inference_usd_per_flop, training_flop=6,
    inference_flop=2,
):  # fmt: skip
    r"""Price of training a model and of serving it for its lifetime, each at its own price of an operation.

    .. math:: 6 N D\, c_t + 2 N D_{inf}\, c_i

    Symbols      N  n_params [1] used for a token;  D  training_tokens [1] trained on;
                 D_{inf}  served_tokens [1] over the lifetime;  c_t  training_usd_per_flop [USD/flop] price over rate;
                 c_i  inference_usd_per_flop [USD/flop] price over rate;
                 f_t  training_flop [flop] for a parameter and a token;  f_i  inference_flop [flop] the same;
                 returns [USD]
    Valid for    n_params >= 0; training_tokens >= 0; served_tokens >= 0; training_usd_per_flop >= 0;
                 inference_usd_per_flop >= 0
    Monotone     n_params +; training_tokens +; served_tokens +; training_usd_per_flop +; inference_usd_per_flop +
    Source       Sardana et al. 2024 (real-world cost: rates of training and inference differ),
                 arXiv:2401.00448
    """
    training = training_flop * training_tokens * training_usd_per_flop
    return n_params * (training + inference_flop * served_tokens * inference_usd_per_flop)


@formula
def recursion_depth_flops(n_params_shared, mean_depth, tokens, flop_per_param_token=6):
    r"""Operations of training a model whose tokens pass one shared block so many times on average.

    .. math:: 6 N \bar r D

    Symbols      N  n_params_shared [1] of the block that is reused;  \bar{r}  mean_depth [1] passes of a token;
                 D  tokens [1] trained on;  f  flop_per_param_token [flop] of a training step;  returns [flop]
    Assumptions  products alone; attention of step r falls with the square of the tokens still active
    Valid for    n_params_shared >= 0; mean_depth >= 1; tokens >= 0
    Monotone     n_params_shared +; mean_depth +; tokens +
    Source       Bae et al. 2025, "Mixture-of-Recursions: Learning Dynamic Recursive Depths for Adaptive Token-Level
                 Computation", arXiv:2507.10524
    """
    return flop_per_param_token * n_params_shared * mean_depth * tokens
