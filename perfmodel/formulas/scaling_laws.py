r"""Loss from parameters, tokens and compute: Kaplan, Chinchilla and the optimum under a compute budget."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import exp, log

__all__ = [
    "chinchilla_frontier_scale",
    "chinchilla_loss",
    "chinchilla_optimal_params",
    "chinchilla_optimal_tokens",
    "chinchilla_params_exponent",
    "critical_batch_tokens",
    "critical_batch_trade_off",
    "critical_steps",
    "equal_compute_tokens",
    "hestness_error",
    "hestness_params",
    "kaplan_compute_loss",
    "kaplan_joint_loss",
    "kaplan_params_loss",
    "kaplan_step_loss",
    "kaplan_tokens_loss",
    "power_law_crossover",
]


@formula
def kaplan_params_loss(n_params, critical_params=8.8e13, exponent=0.076):
    r"""Loss of a language model that is limited by its parameters alone, in nats per token.

    .. math:: L = (N_c / N)^{\alpha_N}

    Symbols      N  n_params [1] without embeddings;  N_c  critical_params [1] fitted;  \alpha_N  exponent [1] fitted;
                 returns [1]
    Assumptions  trained to convergence on enough data
    Valid for    768 <= n_params <= 1.5e9; critical_params >= 1e12; 0.001 <= exponent <= 1
    Monotone     n_params -
    Source       Kaplan et al. 2020, "Scaling Laws for Neural Language Models", eq. 1.1, arXiv:2001.08361
    """
    return (critical_params / n_params) ** exponent


@formula
def kaplan_tokens_loss(tokens, critical_tokens=5.4e13, exponent=0.095):
    r"""Loss of a language model that is limited by its data alone, in nats per token.

    .. math:: L = (D_c / D)^{\alpha_D}

    Symbols      D  tokens [1] of the data set;  D_c  critical_tokens [1] fitted;  \alpha_D  exponent [1] fitted;
                 returns [1]
    Assumptions  a large model, stopped early
    Valid for    2.2e7 <= tokens <= 2.3e10; critical_tokens >= 1e12; 0.001 <= exponent <= 1
    Monotone     tokens -
    Source       Kaplan et al. 2020, eq. 1.2, arXiv:2001.08361
    """
    return (critical_tokens / tokens) ** exponent


@formula
def kaplan_compute_loss(compute_flops, critical_pf_days=3.1e8, exponent=0.05, flop_per_pf_day=8.64e19):
    r"""Loss of the best language model that so much compute trains, in nats per token.

    .. math:: L = (C_c / C_{min})^{\alpha_C}

    Symbols      C_{min}  compute_flops [flop] least compute of a run;  C_c  critical_pf_days [1] fitted;
                 \alpha_C  exponent [1] fitted;  d  flop_per_pf_day [flop] operations of a petaflop/s-day;  returns [1]
    Assumptions  batch well below the critical one, best size of the model
    Valid for    compute_flops >= 1e14; critical_pf_days >= 1e6; 0.001 <= exponent <= 1
    Monotone     compute_flops -
    Source       Kaplan et al. 2020, eq. 1.3, arXiv:2001.08361
    """
    return (critical_pf_days * flop_per_pf_day / compute_flops) ** exponent


@formula
def kaplan_joint_loss(
    n_params, tokens, critical_params=6.4e13, critical_tokens=1.8e13, params_exponent=0.076, tokens_exponent=0.103
):
    r"""Loss of a language model limited by parameters and data, in nats per token.

    .. math:: L = \left[\left(\frac{N_c}{N}\right)^{\alpha_N / \alpha_D} + \frac{D_c}{D}\right]^{\alpha_D}

    Symbols      N  n_params [1] without embeddings;  D  tokens [1] of the data set;  N_c  critical_params [1] fitted;
                 D_c  critical_tokens [1] fitted;  \alpha_N  params_exponent [1] fitted;
                 \alpha_D  tokens_exponent [1] fitted;  returns [1]
    Valid for    n_params >= 1000; tokens >= 1e6; critical_params >= 1e12; critical_tokens >= 1e12;
                 0.01 <= params_exponent <= 1; 0.05 <= tokens_exponent <= 1
    Monotone     n_params -; tokens -
    Source       Kaplan et al. 2020, eq. 1.5 and Table 2, arXiv:2001.08361
    """
    of_params = (critical_params / n_params) ** (params_exponent / tokens_exponent)
    return (of_params + critical_tokens / tokens) ** tokens_exponent


@formula
def kaplan_step_loss(
    n_params, steps, critical_params=6.5e13, critical_steps=2.1e3, params_exponent=0.077, steps_exponent=0.76
):
    r"""Loss of a language model after so many steps at a batch far above the critical one, in nats per token.

    .. math:: L = (N_c/N)^{\alpha_N} + (S_c / S_{min})^{\alpha_S}

    Symbols      N  n_params [1] without embeddings;  S_{min}  steps [1] after warm-up, at an infinite batch;
                 N_c  critical_params [1] fitted;  S_c  critical_steps [1] fitted;
                 \alpha_N  params_exponent [1] fitted;  \alpha_S  steps_exponent [1] fitted;  returns [1]
    Assumptions  S_min is `critical_steps` of the true steps and batch
    Valid for    n_params >= 1000; steps >= 1000; critical_params >= 1e12; critical_steps >= 1;
                 0.001 <= params_exponent <= 1; 0.001 <= steps_exponent <= 1
    Monotone     n_params -; steps -
    Source       Kaplan et al. 2020, eq. 1.6 and Table 3, arXiv:2001.08361; also the trajectory of Su et al. 2024,
                 "Unraveling the Mystery of Scaling Laws: Part I", arXiv:2403.06563 (own constants there)
    """
    return (critical_params / n_params) ** params_exponent + (critical_steps / steps) ** steps_exponent


@formula
def critical_batch_tokens(loss, batch_scale=2e8, exponent=0.21):
    r"""Batch at which a run takes twice its fewest steps and twice its fewest tokens.

    .. math:: B_{crit} = B_* / L^{1/\alpha_B}

    Symbols      L  loss [1] reached, in nats per token;  B_*  batch_scale [1] tokens, fitted;
                 \alpha_B  exponent [1] fitted;  returns [1] tokens
    Valid for    0.5 <= loss <= 12; batch_scale >= 1; 0.05 <= exponent <= 1
    Monotone     loss -; batch_scale +
    Source       Kaplan et al. 2020, eq. 1.4, arXiv:2001.08361; McCandlish et al. 2018, arXiv:1812.06162; constants
                 depend on the data set (Su et al. 2024, arXiv:2403.06563)
    """
    return batch_scale / loss ** (1 / exponent)


@formula
def critical_steps(steps, batch_tokens, critical_batch):
    r"""Fewest steps that would reach the same loss, at a batch without limit.

    .. math:: S_{min} = \frac{S}{1 + B_{crit} / B}

    Symbols      S  steps [1] made;  B  batch_tokens [1] tokens of a batch;
                 B_{crit}  critical_batch [1] tokens of `critical_batch_tokens`;  returns [1]
    Valid for    steps >= 0; batch_tokens >= 1; critical_batch >= 0
    Monotone     steps +; batch_tokens +; critical_batch -
    Source       Kaplan et al. 2020, eq. 5.4, arXiv:2001.08361; Su et al. 2024, arXiv:2403.06563
    """
    return steps / (1 + critical_batch / batch_tokens)


@formula
def critical_batch_trade_off(relative_steps):
    r"""Tokens of a run over the fewest that reach its loss, when it takes so many times the fewest steps.

    .. math:: \left(\frac{S}{S_{min}} - 1\right)\left(\frac{E}{E_{min}} - 1\right) = 1

    Symbols      S/S_{min}  relative_steps [1] above one;  returns [1]
    Assumptions  twice the steps cost twice the tokens: the balance of time and compute
    Valid for    1.001 <= relative_steps <= 3
    Monotone     relative_steps -
    Limits       relative_steps = 2 -> 2
    Source       McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", arXiv:1812.06162; Su
                 et al. 2024, arXiv:2403.06563
    """
    return 1 + 1 / (relative_steps - 1)


@formula
def chinchilla_loss(n_params, tokens, irreducible, params_scale, tokens_scale, params_exponent, tokens_exponent):
    r"""Loss of a language model from its parameters and training tokens, in nats per token.

    .. math:: L = E + A N^{-\alpha} + B D^{-\beta}

    Symbols      N  n_params [1] with embeddings;  D  tokens [1] trained on;  E  irreducible [1] loss;
                 A  params_scale [1] fitted;  B  tokens_scale [1] fitted;  \alpha  params_exponent [1] fitted;
                 \beta  tokens_exponent [1] fitted;  returns [1]
    Assumptions  one pass over the data, learning rate that decays over the run
    Valid for    n_params >= 1e6; tokens >= 1e6; irreducible >= 0; params_scale >= 0; tokens_scale >= 0;
                 0.01 <= params_exponent <= 1; 0.01 <= tokens_exponent <= 1
    Monotone     n_params -; tokens -; irreducible +; params_scale +; tokens_scale +
    Source       Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", eq. 10, arXiv:2203.15556. Its
                 printed constants are rounded to two digits, which moves the optimum from 40e9 to 32e9 parameters at
                 Gopher's budget; `perfmodel.plan.training_budget` uses unrounded ones and the refit of Besiroglu et
                 al. 2024, arXiv:2404.10102
    """
    return irreducible + params_scale * n_params ** (-params_exponent) + tokens_scale * tokens ** (-tokens_exponent)


@formula
def chinchilla_frontier_scale(params_scale, tokens_scale, params_exponent, tokens_exponent):
    r"""Scale G between the optimal parameters and a power of the compute.

    .. math:: G = \left(\frac{\alpha A}{\beta B}\right)^{1/(\alpha+\beta)}

    Symbols      A  params_scale [1] fitted;  B  tokens_scale [1] fitted;  \alpha  params_exponent [1] fitted;
                 \beta  tokens_exponent [1] fitted;  returns [1]
    Valid for    params_scale >= 0.001; tokens_scale >= 0.001; 0.1 <= params_exponent <= 1; 0.1 <= tokens_exponent <= 1
    Monotone     params_scale +; tokens_scale -
    Source       Hoffmann et al. 2022, eq. 4, arXiv:2203.15556
    """
    ratio = params_exponent * params_scale / (tokens_exponent * tokens_scale)
    return ratio ** (1 / (params_exponent + tokens_exponent))


@formula
def chinchilla_params_exponent(params_exponent, tokens_exponent):
    r"""Power of the compute with which the optimal parameters grow; the tokens take what is left of one.

    .. math:: a = \frac{\beta}{\alpha + \beta}

    Symbols      \alpha  params_exponent [1] of the loss;  \beta  tokens_exponent [1] of the loss;  returns [1]
    Valid for    0.01 <= params_exponent <= 1; 0.01 <= tokens_exponent <= 1
    Monotone     params_exponent -; tokens_exponent +
    Source       Hoffmann et al. 2022, eq. 4, arXiv:2203.15556
    Checked      .46 of approach 3 (Table 2) from unrounded constants, .513 of the refit of Besiroglu et al. 2024
    """
    return tokens_exponent / (params_exponent + tokens_exponent)


@formula
def chinchilla_optimal_params(
    compute_flops, params_scale, tokens_scale, params_exponent, tokens_exponent, flop_per_param_token=6
):
    r"""Parameters of the model of least loss under a budget of training compute.

    .. math:: N = G\, (C/6)^{\beta/(\alpha+\beta)}

    Symbols      C  compute_flops [flop] of the run;  A  params_scale [1] fitted;  B  tokens_scale [1] fitted;
                 \alpha  params_exponent [1] fitted;  \beta  tokens_exponent [1] fitted;
                 f  flop_per_param_token [flop] of a training step;  returns [1]
    Assumptions  C = 6 N D; minimum of `chinchilla_loss`
    Valid for    compute_flops >= 1e12; params_scale >= 0.001; tokens_scale >= 0.001; 0.1 <= params_exponent <= 1;
                 0.1 <= tokens_exponent <= 1
    Monotone     compute_flops +; params_scale +; tokens_scale -
    Source       Hoffmann et al. 2022, eq. 4, arXiv:2203.15556
    Checked      40 billion at Gopher's 5.76e23 (Figure 4), with unrounded constants alone
    """
    share = chinchilla_params_exponent(params_exponent, tokens_exponent)
    scale = chinchilla_frontier_scale(params_scale, tokens_scale, params_exponent, tokens_exponent)
    return scale * (compute_flops / flop_per_param_token) ** share


@formula
def chinchilla_optimal_tokens(
    compute_flops, params_scale, tokens_scale, params_exponent, tokens_exponent, flop_per_param_token=6
):
    r"""Tokens to train the model of least loss on, under a budget of training compute.

    .. math:: D = G^{-1} (C/6)^{\alpha/(\alpha+\beta)}

    Symbols      C  compute_flops [flop] of the run;  A  params_scale [1] fitted;  B  tokens_scale [1] fitted;
                 \alpha  params_exponent [1] fitted;  \beta  tokens_exponent [1] fitted;
                 f  flop_per_param_token [flop] of a training step;  returns [1]
    Assumptions  C = 6 N D; minimum of `chinchilla_loss`
    Valid for    compute_flops >= 1e12; params_scale >= 0.001; tokens_scale >= 0.001; 0.1 <= params_exponent <= 1;
                 0.1 <= tokens_exponent <= 1
    Monotone     compute_flops +; params_scale -; tokens_scale +
    Source       Hoffmann et al. 2022, eq. 4, arXiv:2203.15556
    """
    share = params_exponent / (params_exponent + tokens_exponent)
    scale = chinchilla_frontier_scale(params_scale, tokens_scale, params_exponent, tokens_exponent)
    return (compute_flops / flop_per_param_token) ** share / scale


@formula
def hestness_error(examples, scale, exponent, irreducible=0):
    r"""Generalisation error in the region where it falls with the amount of data as a power law.

    .. math:: \epsilon = \alpha\, m^{-\beta} + \gamma

    Symbols      m  examples [1] trained on;  \alpha  scale [1] fitted;  \beta  exponent [1] between 0 and 1/2;
                 \gamma  irreducible [1] error;  returns [1]
    Assumptions  between the region of few data, where guessing is as good, and the region of irreducible error
    Valid for    examples >= 1; scale >= 0; 0 <= exponent <= 0.5; irreducible >= 0
    Monotone     examples -; scale +; irreducible +
    Source       Hestness et al. 2017, "Deep Learning Scaling is Predictable, Empirically",
                 arXiv:1712.00409 (there the exponent is negative); with examples replaced by parameters, tokens or
                 compute also Yao et al. 2024, "Towards Neural Scaling Laws for Time Series Foundation Models",
                 arXiv:2410.12360, and by hours Stanic et al. 2023, "The Languini Kitchen", arXiv:2309.11197
    """
    return scale * examples ** (-exponent) + irreducible


@formula
def hestness_params(examples, scale, exponent):
    r"""Parameters that just fit so much data: they grow more slowly than the data.

    .. math:: s = \alpha\, m^{\beta_p}

    Symbols      m  examples [1] trained on;  \alpha  scale [1] fitted;  \beta_p  exponent [1] from 1/2 to 1;  returns
                 [1]
    Valid for    examples >= 1; scale >= 0; 0.5 <= exponent <= 1
    Monotone     examples +; scale +; exponent +
    Source       Hestness et al. 2017, arXiv:1712.00409
    """
    return scale * examples**exponent


@formula
def power_law_crossover(first_scale, first_exponent, second_scale, second_exponent):
    r"""Where two falling power laws meet: from there on the steeper one is better.

    .. math:: h = (a_1 / a_2)^{1/(b_1 - b_2)}

    Symbols      a_1  first_scale [1] of the steeper law;  b_1  first_exponent [1] of it;
                 a_2  second_scale [1] of the flatter law;  b_2  second_exponent [1] of it;  returns [1]
    Assumptions  both laws over the same axis, as accelerator hours for equal compute
    Valid for    first_scale >= 0.001; 0.3 <= first_exponent <= 1; second_scale >= 0.001; 0.01 <= second_exponent <= 0.2
    Monotone     first_scale +; second_scale -
    Source       two laws `a h^-b` set equal; Stanic et al. 2023, "The Languini Kitchen", arXiv:2309.11197 (GPT and LSTM
                 meet at about 50,000 accelerator hours; the fitted laws are not in the abstract)
    """
    return exp(log(first_scale / second_scale) / (first_exponent - second_exponent))


@formula
def equal_compute_tokens(throughput_tokens_per_s, accelerator_hours, seconds_per_hour=3600):
    r"""Tokens that a class of equal compute lets a model train on: throughput times hours.

    .. math:: D = 3600\, r\, h

    Symbols      r  throughput_tokens_per_s [1/s] of one accelerator;  h  accelerator_hours [1] of the class;
                 s  seconds_per_hour [s] seconds in an hour;  returns [1]
    Assumptions  a slower model sees fewer tokens: an LSTM of a tenth of the throughput a tenth of them
    Valid for    throughput_tokens_per_s >= 0; accelerator_hours >= 0
    Monotone     throughput_tokens_per_s +; accelerator_hours +
    Source       Stanic et al. 2023, "The Languini Kitchen", arXiv:2309.11197
    """
    return throughput_tokens_per_s * accelerator_hours * seconds_per_hour
