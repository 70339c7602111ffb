r"""Ways to spend at test time: exchange against pretraining, search, refinement, sleep, retrieval, easy parts."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import exp, log, minimum

__all__ = [
    "attempts_for_coverage",
    "budget_forced_tokens",
    "guided_search_flops",
    "inference_exchange_multiplier",
    "particle_equivalent_rollouts",
    "planned_sampling_tokens",
    "rag_allocation_accuracy",
    "rag_effective_tokens",
    "rate_of_flops",
    "refinement_latency_tokens",
    "refinement_total_tokens",
    "search_regret_ratio",
    "sleep_time_cost",
    "split_cost",
]


@formula
def inference_exchange_multiplier(model_ratio, inference_ratio):
    r"""How much more a small model may compute at test time for the cost of a model M times larger.

    .. math:: m = M + \frac{3 (M-1)}{R}

    Symbols      M  model_ratio [1] parameters of the large model over those of the small;
                 R  inference_ratio [1] tokens of inference over tokens of pretraining;  returns [1]
    Assumptions  pretraining is 6 N D, inference 2 N D, in operations; prices of the two are equal
    Valid for    model_ratio >= 1; inference_ratio >= 0.001
    Monotone     model_ratio +; inference_ratio -
    Limits       model_ratio = 1 -> 1
    Source       Snell et al. 2024, "Scaling LLM Test-Time Compute Optimally", section 7, arXiv:2408.03314
    Checked      258, 63 and 16 for a model 14 times larger and R of .16, .79 and 22 (Figure 9)
    """
    return model_ratio + 3 * (model_ratio - 1) / inference_ratio


@formula
def rate_of_flops(flops, time_s):
    r"""Operations a second that a method reached; where methods differ in it, operations do not tell their time.

    .. math:: r = F / t

    Symbols      F  flops [flop] of a problem;  t  time_s [s] it took;  returns [flop/s]
    Valid for    flops >= 0; time_s >= 0.000001
    Monotone     flops +; time_s -
    Source       definition; used on Quiet-STaR and REBASE, AbdElhameed and Halim 2024, "Inference Scaling vs
                 Reasoning: An Empirical Analysis of Compute-Optimal LLM Problem-Solving", abstract, arXiv:2412.16260
    """
    return flops / time_s


@formula
def guided_search_flops(paths, policy_params, reward_params, path_tokens, scored_tokens, flop_per_mac=2):
    r"""Operations of a search in which a process reward model scores the steps of N paths.

    .. math:: C = 2 N (P\, T + R\, S)

    Symbols      N  paths [1] kept;  P  policy_params [1] of the policy;  R  reward_params [1] of the reward model;
                 T  path_tokens [1] generated for a path;  S  scored_tokens [1] read by the reward model for a path;
                 f  flop_per_mac [flop] of a multiply-add;  returns [flop]
    Assumptions  attention not counted; the reward model keeps its cache, so S is T where every step is scored once
    Valid for    paths >= 1; policy_params >= 1; reward_params >= 0; path_tokens >= 0; scored_tokens >= 0
    Monotone     paths +; policy_params +; reward_params +; path_tokens +; scored_tokens +
    Source       Liu et al. 2025, "Can 1B LLM Surpass 405B LLM? Rethinking Compute-Optimal Test-Time Scaling",
                 arXiv:2502.06703 (2 N operations a token)
    """
    return flop_per_mac * paths * (policy_params * path_tokens + reward_params * scored_tokens)


@formula
def sleep_time_cost(test_cost, sleep_cost, queries):
    r"""Mean cost of a query where a context is thought over once, before its queries come.

    .. math:: C = C_t + C_s / q

    Symbols      C_t  test_cost [USD] of answering a query then;  C_s  sleep_cost [USD] of thinking a context over;
                 q  queries [1] of a context;  returns [USD]
    Assumptions  tokens at test time may carry a higher price for their latency; that is inside test_cost
    Valid for    test_cost >= 0; sleep_cost >= 0; queries >= 1
    Monotone     test_cost +; sleep_cost +; queries -
    Source       Lin et al. 2025, "Sleep-time Compute: Beyond Inference Scaling at Test-time",
                 arXiv:2504.13171
    """
    return test_cost + sleep_cost / queries


@formula
def refinement_latency_tokens(rounds, draft_tokens, distilled_tokens):
    r"""Tokens that follow one another when rounds of parallel drafts are distilled into a short workspace.

    .. math:: B_{seq} = R (d + s)

    Symbols      R  rounds [1] of draft and distillation;  d  draft_tokens [1] of the longest draft;
                 s  distilled_tokens [1] of the workspace;  returns [1]
    Valid for    rounds >= 0; draft_tokens >= 0; distilled_tokens >= 0
    Monotone     rounds +; draft_tokens +; distilled_tokens +
    Source       Madaan et al. 2025, "Rethinking Thinking Tokens: LLMs as Improvement Operators" (sequential
                 budget of parallel-distill-refine), arXiv:2510.01123
    """
    return rounds * (draft_tokens + distilled_tokens)


@formula
def refinement_total_tokens(rounds, drafts, draft_tokens, distilled_tokens):
    r"""Tokens of all drafts and distillations of parallel-distill-refine.

    .. math:: B_{total} = R (M d + s)

    Symbols      R  rounds [1] of draft and distillation;  M  drafts [1] of a round, 1 for sequential refinement;
                 d  draft_tokens [1] of a draft;  s  distilled_tokens [1] of the workspace;  returns [1]
    Valid for    rounds >= 0; drafts >= 1; draft_tokens >= 0; distilled_tokens >= 0
    Monotone     rounds +; drafts +; draft_tokens +; distilled_tokens +
    Source       Madaan et al. 2025 (total budget), arXiv:2510.01123
    """
    return rounds * (drafts * draft_tokens + distilled_tokens)


@formula
def budget_forced_tokens(natural_tokens, least_tokens, most_tokens):
    r"""Tokens of one chain of thought that is kept going up to a floor and cut at a cap.

    .. math:: \min(\max(n, l), u)

    Symbols      n  natural_tokens [1] that it would take;  l  least_tokens [1] before which its end is suppressed;
                 u  most_tokens [1] after which it is ended;  returns [1]
    Valid for    natural_tokens >= 0; least_tokens >= 0; most_tokens >= 0
    Monotone     natural_tokens +; least_tokens +; most_tokens +
    Source       Muennighoff et al. 2025, "s1: Simple test-time scaling" (budget forcing), arXiv:2501.19393
    """
    longer = natural_tokens - minimum(natural_tokens, least_tokens) + least_tokens
    return minimum(longer, most_tokens)


@formula
def particle_equivalent_rollouts(particles, scaling_rate):
    r"""Rollouts of a deterministic search that reach what N particles reach.

    .. math:: n = r N

    Symbols      N  particles [1] of the filter;  r  scaling_rate [1] measured, 4 to 16 by the authors;  returns [1]
    Valid for    particles >= 1; 1 <= scaling_rate <= 100
    Monotone     particles +; scaling_rate +
    Source       Puri et al. 2025, "A Probabilistic Inference Approach to Inference-Time Scaling of LLMs using
                 Particle-Based Monte Carlo Methods", abstract (4-16x better scaling rate), arXiv:2502.01618
    """
    return scaling_rate * particles


@formula
def rag_effective_tokens(documents, document_tokens, shots, shot_tokens, iterations):
    r"""Tokens that a model reads to answer one question with retrieval, demonstrations and iterations.

    .. math:: L = n (k t_d + m t_s)

    Symbols      k  documents [1] retrieved;  t_d  document_tokens [1] of a document;  m  shots [1] shown;
                 t_s  shot_tokens [1] of a demonstration;  n  iterations [1] of the question;  returns [1]
    Assumptions  each iteration reads the whole input again; generated tokens not counted
    Valid for    documents >= 0; document_tokens >= 0; shots >= 0; shot_tokens >= 0; iterations >= 1
    Monotone     documents +; document_tokens +; shots +; shot_tokens +; iterations +
    Source       Yue et al. 2024, "Inference Scaling for Long-Context Retrieval Augmented Generation"
                 (effective context length), arXiv:2410.04343
    """
    return iterations * (documents * document_tokens + shots * shot_tokens)


@formula
def rag_allocation_accuracy(
    documents, shots, iterations, document_slope, shot_slope, iteration_slope, document_gain, shot_gain, offset
):
    r"""Accuracy of retrieval with k documents, m demonstrations and n iterations: the allocation law.

    .. math:: \sigma\left((a_1 + b_1 i_1) \ln k + (a_2 + b_2 i_2) \ln m + a_3 \ln n - c\right)

    Symbols      k  documents [1] at least one;  m  shots [1] at least one;  n  iterations [1] at least one;
                 a_1  document_slope [1] of all tasks;  a_2  shot_slope [1] of all tasks;
                 a_3  iteration_slope [1] of all tasks;
                 b_1i_1  document_gain [1] slope times what one document adds on this task;
                 b_2i_2  shot_gain [1] the same of demonstrations;  c  offset [1] subtracted;  returns [1]
    Assumptions  slopes are fitted by least squares on logits; the authors shift zero counts by a small constant
    Valid for    documents >= 1; shots >= 1; iterations >= 1; 0.001 <= document_slope <= 1; 0.001 <= shot_slope <= 1;
                 0.001 <= iteration_slope <= 1; 0.001 <= document_gain <= 1; 0.001 <= shot_gain <= 1; 0 <= offset <= 10
    Monotone     documents +; shots +; iterations +; offset -
    Source       Yue et al. 2024 (computation allocation model), arXiv:2410.04343
    """
    documents_logit = (document_slope + document_gain) * log(documents)
    shots_logit = (shot_slope + shot_gain) * log(shots)
    return 1 / (1 + exp(offset - documents_logit - shots_logit - iteration_slope * log(iterations)))


@formula
def split_cost(easy_share, easy_cost, hard_cost):
    r"""Mean cost of a part of a problem where easy parts are answered at once and hard ones thought over.

    .. math:: C = e\, c_1 + (1-e)\, c_2

    Symbols      e  easy_share [1] of the parts;  c_1  easy_cost [USD] of an easy part;
                 c_2  hard_cost [USD] of a hard part;  returns [USD]
    Valid for    0 <= easy_share <= 1; easy_cost >= 0; hard_cost >= 0
    Monotone     easy_cost +; hard_cost +
    Source       Xiao et al. 2025, "SCALE: Selective Resource Allocation for Overcoming Performance Bottlenecks in
                 Mathematical Test-time Scaling", arXiv:2512.00466
    """
    return easy_share * easy_cost + (1 - easy_share) * hard_cost


@formula
def attempts_for_coverage(coverage, scale, exponent):
    r"""Attempts that repeated sampling needs for a coverage that another search reached.

    .. math:: k = \left(\frac{a}{-\ln c}\right)^{1/b}

    Symbols      c  coverage [1] to reach;  a  scale [1] minus the logarithm of pass@1;  b  exponent [1] of attempts;
                 returns [1]
    Assumptions  `coverage_power_law`, inverted
    Valid for    0.01 <= coverage <= 0.99; 0.001 <= scale <= 7; 0.1 <= exponent <= 2
    Monotone     coverage +
    Source       Brown et al. 2024, arXiv:2407.21787, solved for the attempts
    """
    return (scale / -log(coverage)) ** (1 / exponent)


@formula
def planned_sampling_tokens(plans, plan_tokens, solution_tokens):
    r"""Tokens of k solutions that each follow a plan of their own.

    .. math:: T = k (p + s)

    Symbols      k  plans [1] made;  p  plan_tokens [1] of a plan and what led to it;  s  solution_tokens [1] of a
                 solution;  returns [1]
    Valid for    plans >= 0; plan_tokens >= 0; solution_tokens >= 0
    Monotone     plans +; plan_tokens +; solution_tokens +
    Source       Wang et al. 2024, "Planning In Natural Language Improves LLM Search For Code Generation",
                 arXiv:2409.03733
    """
    return plans * (plan_tokens + solution_tokens)


@formula
def search_regret_ratio(horizon_tokens, training_problems):
    r"""How the loss of training without a verifier compares with that of training with one, up to a constant.

    .. math:: \rho = \frac{H / \sqrt n}{H / n} = \sqrt n

    Symbols      H  horizon_tokens [1] of test-time compute;  n  training_problems [1] seen;  returns [1]
    Assumptions  rates, not constants: the verifier-free loss is H / sqrt(n) at least, the verifier-based H / n
    Valid for    horizon_tokens >= 1; training_problems >= 1
    Monotone     training_problems +
    Limits       training_problems = 1 -> 1
    Source       Setlur et al. 2025, "Scaling Test-Time Compute Without Verification or RL is Suboptimal",
                 arXiv:2502.12118
    """
    return (horizon_tokens / training_problems**0.5) / (horizon_tokens / training_problems)
