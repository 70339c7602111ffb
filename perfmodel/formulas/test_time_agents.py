r"""Agents and graphs of calls: prices with a prompt cache, layers of calls, parallel function calls, shared steps."""

from perfmodel.formulas._registry import formula
from perfmodel.ops import maximum

__all__ = [
    "adaptive_depth_flops",
    "cached_prompt_price_usd",
    "hierarchical_calls_latency",
    "layered_calls",
    "layered_calls_latency",
    "parallel_calls_latency",
    "reasoning_effort_cost_usd",
    "sequential_calls_latency",
    "shared_steps_cost",
]


@formula
def cached_prompt_price_usd(
    fresh_tokens, read_tokens, written_tokens, output_tokens, usd_per_mtok_in, usd_per_mtok_read, usd_per_mtok_write,
    usd_per_mtok_out, tokens_per_mtok=1e6,
):  # fmt: skip
    r"""Price of calls whose prompts are partly read from a cache.

    .. math:: C = \left(n_i c_i + n_r c_r + n_w c_w + n_o c_o\right) / 10^6

    Symbols      n_i  fresh_tokens [1] of prompts, not cached;  n_r  read_tokens [1] from the cache;
                 n_w  written_tokens [1] to the cache;  n_o  output_tokens [1] generated;
                 c_i  usd_per_mtok_in [USD] price of a million;  c_r  usd_per_mtok_read [USD] the same, read;
                 c_w  usd_per_mtok_write [USD] the same, written;  c_o  usd_per_mtok_out [USD] the same, generated;
                 m  tokens_per_mtok [1] tokens in a million;  returns [USD]
    Valid for    fresh_tokens >= 0; read_tokens >= 0; written_tokens >= 0; output_tokens >= 0; usd_per_mtok_in >= 0;
                 usd_per_mtok_read >= 0; usd_per_mtok_write >= 0; usd_per_mtok_out >= 0
    Monotone     fresh_tokens +; read_tokens +; written_tokens +; output_tokens +
    Source       Ehrlich et al. 2025, "CodeMonkeys: Scaling Test-Time Compute for Software Engineering", Table 1,
                 arXiv:2501.14723 (3, .30, 3.75 and 15 USD)
    Checked      the parts of that table add up to 2291.90 USD (tests/test_test_time_laws.py)
    """
    prompts = fresh_tokens * usd_per_mtok_in + read_tokens * usd_per_mtok_read + written_tokens * usd_per_mtok_write
    return (prompts + output_tokens * usd_per_mtok_out) / tokens_per_mtok


@formula
def layered_calls(generators, samples, ranked, fusers, verified):
    r"""Calls of a graph of inference: generate, rank, fuse, verify, in layers.

    .. math:: g s + r + f + v

    Symbols      g  generators [1] models of the first layer;  s  samples [1] of each;  r  ranked [1] calls of a ranker;
                 f  fusers [1] calls that merge candidates;  v  verified [1] calls of a verifier;  returns [1]
    Valid for    generators >= 1; samples >= 1; ranked >= 0; fusers >= 0; verified >= 0
    Monotone     generators +; samples +; ranked +; fusers +; verified +
    Source       Saad-Falcon et al. 2024, "Archon: An Architecture Search Framework for Inference-Time Techniques",
                 arXiv:2409.15254
    """
    return generators * samples + ranked + fusers + verified


@formula
def layered_calls_latency(generate_s, rank_s, fuse_s, verify_s):
    r"""Time of a graph of inference in layers: calls of a layer run together, layers in turn.

    .. math:: t_g + t_r + t_f + t_v

    Symbols      t_g  generate_s [s] the slowest of the layer;  t_r  rank_s [s] of the ranker;
                 t_f  fuse_s [s] the slowest fuser;  t_v  verify_s [s] the slowest verifier;  returns [s]
    Valid for    generate_s >= 0; rank_s >= 0; fuse_s >= 0; verify_s >= 0
    Monotone     generate_s +; rank_s +; fuse_s +; verify_s +
    Source       Saad-Falcon et al. 2024, arXiv:2409.15254
    """
    return generate_s + rank_s + fuse_s + verify_s


@formula
def sequential_calls_latency(calls, call_s, decide_s):
    r"""Time of an agent that decides before each of its function calls (ReAct).

    .. math:: n (t_d + t_c)

    Symbols      n  calls [1] of functions;  t_c  call_s [s] of one;  t_d  decide_s [s] of the model before each;
                 returns [s]
    Valid for    calls >= 0; call_s >= 0; decide_s >= 0
    Monotone     calls +; call_s +; decide_s +
    Source       Kim et al. 2023, "An LLM Compiler for Parallel Function Calling", arXiv:2312.04511
    """
    return calls * (decide_s + call_s)


@formula
def parallel_calls_latency(stages, call_s, plan_s, join_s):
    r"""Time of an agent that plans its function calls once and runs independent ones together.

    .. math:: t_p + s\, t_c + t_j

    Symbols      s  stages [1] calls on the longest path of dependence;  t_c  call_s [s] of the slowest of a stage;
                 t_p  plan_s [s] of the model before the first call;  t_j  join_s [s] of the answer;  returns [s]
    Assumptions  as many calls at once as are independent; a plan that streams hides part of its time
    Valid for    stages >= 0; call_s >= 0; plan_s >= 0; join_s >= 0
    Monotone     stages +; call_s +; plan_s +; join_s +
    Source       Kim et al. 2023, arXiv:2312.04511
    """
    return plan_s + stages * call_s + join_s


@formula
def hierarchical_calls_latency(parallel_s, sequential_s, lead_s):
    r"""Time of a team of agents under a lead who hands out work and gathers it: the longer branch, and the lead twice.

    .. math:: \max(t_p, t_s) + 2 t_l

    Symbols      t_p  parallel_s [s] slowest of the agents that work side by side;  t_s  sequential_s [s] chain of
                 agents that wait for each other;  t_l  lead_s [s] of handing out, and of gathering;  returns [s]
    Valid for    parallel_s >= 0; sequential_s >= 0; lead_s >= 0
    Monotone     parallel_s +; sequential_s +; lead_s +
    Source       critical path of a graph: Graham 1969, "Bounds on Multiprocessing Timing Anomalies",
                 doi:10.1137/0117039; topologies of "AdaptOrch: Task-Adaptive Multi-Agent Orchestration in the Era of
                 LLM Performance Convergence"
    """
    return maximum(parallel_s, sequential_s) + 2 * lead_s


@formula
def shared_steps_cost(teams, steps, step_cost, reused_share, memory_cost):
    r"""Price of teams of agents that reuse each other's steps through a shared memory.

    .. math:: w (n (1-u)\, c + c_m)

    Symbols      w  teams [1] at work;  n  steps [1] of a team without sharing;  c  step_cost [USD] of one;
                 u  reused_share [1] of steps found in the memory;  c_m  memory_cost [USD] of reading the longer
                 context; returns [USD]
    Valid for    teams >= 1; steps >= 0; step_cost >= 0; 0 <= reused_share <= 1; memory_cost >= 0
    Monotone     teams +; steps +; step_cost +; reused_share -; memory_cost +
    Source       "Learning to Share: Selective Memory for Efficient Parallel Agentic Systems" (mechanism of the
                 abstract)
    """
    return teams * (steps * (1 - reused_share) * step_cost + memory_cost)


@formula
def reasoning_effort_cost_usd(problems, mean_tokens, usd_per_mtok_out, tokens_per_mtok=1e6):
    r"""Price of a benchmark at one level of reasoning effort.

    .. math:: C = n \bar t c / 10^6

    Symbols      n  problems [1] asked;  \bar{t}  mean_tokens [1] of reasoning and answer at this level;
                 c  usd_per_mtok_out [USD] price of a million;  m  tokens_per_mtok [1] tokens in a million;  returns
                 [USD]
    Assumptions  within a level accuracy falls with the length of a chain: long chains mark hard problems
    Valid for    problems >= 0; mean_tokens >= 0; usd_per_mtok_out >= 0
    Monotone     problems +; mean_tokens +; usd_per_mtok_out +
    Source       definition; Ballon et al. 2025, "The Relationship Between Reasoning and Performance in Large Language
                 Models -- o3 (mini) Thinks Harder, Not Longer", arXiv:2502.15631
    """
    return problems * mean_tokens * usd_per_mtok_out / tokens_per_mtok


@formula
def adaptive_depth_flops(big_share, small_share, big_flops, small_flops):
    r"""Operations of a token in a layer that routes it to a big module, a small one, or past both.

    .. math:: F = p_b F_b + p_s F_s

    Symbols      p_b  big_share [1] of tokens;  p_s  small_share [1] of tokens, the rest skip;
                 F_b  big_flops [flop] of the big module;  F_s  small_flops [flop] of the small one;  returns [flop]
    Valid for    0 <= big_share <= 1; 0 <= small_share <= 1; big_flops >= 0; small_flops >= 0
    Monotone     big_share +; small_share +; big_flops +; small_flops +
    Source       Alizadeh et al. 2024, "Duo-LLM: A Framework for Studying Adaptive Computation in Large Language
                 Models", arXiv:2410.10846
    """
    return big_share * big_flops + small_share * small_flops
