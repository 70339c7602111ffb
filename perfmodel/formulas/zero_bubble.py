r"""Schedules that split the backward pass: their bubbles, and the micro-batches they hold.

B, the gradient of a stage's input, is what the stage before waits for; W, the gradient of its weights, can wait and
fill what would be a bubble. Until W has run its operands stay in memory. Times are those of a whole rank (all its
chunks) and one micro-batch. The bubble is that of the longest rank, from its own start to its own end: every rank steps
its optimizer without waiting for the others, and a later check replaces the norm of all gradients. With a wait before
the step ZB-2P loses about 8 % (Qi et al. 2023, Table 7).
"""

from perfmodel.formulas._registry import formula
from perfmodel.ops import floor, maximum, minimum

__all__ = [
    "dualpipe_bubble_time",
    "first_backward_bubble_time",
    "in_flight_microbatches_dualpipe",
    "in_flight_microbatches_v_half",
    "in_flight_microbatches_v_min",
    "in_flight_microbatches_zb_2p",
    "in_flight_microbatches_zb_h1",
    "in_flight_microbatches_zb_h2",
    "v_half_bubble_time",
    "v_min_bubble_time",
    "weight_gradient_operand_bytes",
    "zb_2p_bubble_time",
    "zb_h1_bubble_time",
    "zb_h2_bubble_time",
    "zb_v_bubble_time",
]


@formula
def first_backward_bubble_time(forward_s, input_gradient_s, pp, held, transfer_s=0):
    r"""Idle time of the first stage before its first backward pass, when it runs `held` forward passes until then.

    .. math:: T = \max\left(0, (p - 1)(t_B + 2 \tau) + (p - k) t_F\right)

    Symbols      t_F  forward_s [s] forward of one micro-batch on one stage;
                 t_B  input_gradient_s [s] gradient of the stage's input;  p  pp [1] pipeline stages;
                 k  held [1] micro-batches that the memory of the first stage holds, or all there are;
                 \tau  transfer_s [s] one message to the next stage;  returns [s]
    Assumptions  equal stages; no weight gradient can run before the first backward pass
    Valid for    forward_s >= 0; input_gradient_s >= 0; pp >= 1; held >= 1; transfer_s >= 0
    Monotone     input_gradient_s +; pp +; held -; transfer_s +
    Limits       pp = 1 -> 0
    Source       Qi et al. 2023, "Zero Bubble Pipeline Parallelism", appendix B, eq. 2, arXiv:2401.10241
    """
    return maximum(0, (pp - 1) * (input_gradient_s + 2 * transfer_s) + (pp - held) * forward_s)


@formula
def zb_h1_bubble_time(forward_s, input_gradient_s, weight_gradient_s, pp, n_microbatches, transfer_s=0):
    r"""Bubble of ZB-H1 and of ZB-1P, the searched schedule with the memory of 1F1B.

    .. math:: T = \max\left((p - 1)(t_F + t_B + 2 \tau) - (k - 1)(t_W - 2 \tau), T_B(k)\right), \quad k = \min(m, p)

    Symbols      t_F  forward_s [s] forward of one micro-batch on one stage;
                 t_B  input_gradient_s [s] gradient of the stage's input;
                 t_W  weight_gradient_s [s] gradient of the stage's weights;  p  pp [1] pipeline stages;
                 m  n_microbatches [1] micro-batches per step;
                 \tau  transfer_s [s] one message to the next stage;  returns [s]
    Assumptions  equal stages; p - 1 of the weight gradients fill the tail, fewer where there are fewer micro-batches,
                 and none what idles before the first B (T_B: first_backward_bubble_time); the first wave
                 waits for its messages down and up, and each of the k - 1 behind it for two more
    Valid for    forward_s >= 0; input_gradient_s >= 0; weight_gradient_s >= 0; pp >= 1; n_microbatches >= 1;
                 transfer_s >= 0
    Monotone     forward_s +; input_gradient_s +; weight_gradient_s -; transfer_s +
    Limits       pp = 1 -> 0
    Source       Qi et al. 2023, "Zero Bubble Pipeline Parallelism", Table 2 (p - 1 times t_F + t_B - t_W), appendix H
                 (m <= p) and the transfers that Table 5 contains, arXiv:2401.10241
    Checked      Table 5 of the paper, bubble rates of ZB-H1 from its profiled times, four models, 8 to 32 stages
    """
    held = minimum(n_microbatches, pp)
    filled_s = (held - 1) * (weight_gradient_s - 2 * transfer_s)
    tail_s = (pp - 1) * (forward_s + input_gradient_s + 2 * transfer_s) - filled_s
    return maximum(tail_s, first_backward_bubble_time(forward_s, input_gradient_s, pp, held, transfer_s))


@formula
def zb_h2_bubble_time(forward_s, input_gradient_s, weight_gradient_s, pp, n_microbatches, transfer_s=0):
    r"""Bubble of ZB-H2, which holds up to 2 pp - 1 micro-batches.

    .. math:: T = \max\left((p - 1)(t_F + t_B + 2 \tau) - (\min(m, 2 p - 1) - 1) t_W, T_B(\min(m, 2 p - 1))\right)

    Symbols      t_F  forward_s [s] forward of one micro-batch on one stage;
                 t_B  input_gradient_s [s] gradient of the stage's input;
                 t_W  weight_gradient_s [s] gradient of the stage's weights;  p  pp [1] pipeline stages;
                 m  n_microbatches [1] micro-batches per step;
                 \tau  transfer_s [s] one message to the next stage;  returns [s]
    Assumptions  equal stages; 2 (p - 1) of the weight gradients fill head and tail, fewer where there are fewer
                 micro-batches, and none what idles before the first B (T_B: first_backward_bubble_time)
    Valid for    forward_s >= 0; input_gradient_s >= 0; weight_gradient_s >= 0; pp >= 1; n_microbatches >= 1;
                 transfer_s >= 0
    Monotone     input_gradient_s +; weight_gradient_s -; n_microbatches -; transfer_s +
    Limits       pp = 1 -> 0
    Source       Qi et al. 2023, "Zero Bubble Pipeline Parallelism", Table 2 (p - 1 times t_F + t_B - 2 t_W), appendix H
                 (m <= p) and the transfers that Table 5 contains, arXiv:2401.10241
    Checked      Table 5 of the paper, bubble rates of ZB-H2 from its profiled times, four models, 8 to 32 stages
    """
    held = minimum(n_microbatches, 2 * pp - 1)
    tail_s = (pp - 1) * (forward_s + input_gradient_s + 2 * transfer_s) - (held - 1) * weight_gradient_s
    return maximum(tail_s, first_backward_bubble_time(forward_s, input_gradient_s, pp, held, transfer_s))


@formula
def zb_2p_bubble_time(forward_s, input_gradient_s, weight_gradient_s, pp, n_microbatches, transfer_s=0, kept_share=1):
    r"""Bubble of ZB-2P, the schedule searched with memory for 2 pp micro-batches, down to less than a forward pass.

    .. math:: T = \max\left((p - 1)(t_F + t_B + 2 \tau) - (\min(m, 2 p / \mu) - 1) t_W, T_B(\min(m, 2 p))\right)

    Symbols      t_F  forward_s [s] forward of one micro-batch on one stage;
                 t_B  input_gradient_s [s] gradient of the stage's input;
                 t_W  weight_gradient_s [s] gradient of the stage's weights;  p  pp [1] pipeline stages;
                 m  n_microbatches [1] micro-batches per step;
                 \tau  transfer_s [s] one message to the next stage;
                 \mu  kept_share [1] bytes that wait for W over those that wait for B;  returns [s]
    Assumptions  equal stages; as many weight gradients wait for the tail as the memory holds; before the first B of the
                 first stage 2 p forward passes can run (T_B: first_backward_bubble_time)
    Valid for    forward_s >= 0; input_gradient_s >= 0; weight_gradient_s >= 0; pp >= 1; n_microbatches >= 1;
                 transfer_s >= 0; kept_share >= 0.01
    Monotone     input_gradient_s +; weight_gradient_s -; n_microbatches -; transfer_s +; kept_share +
    Limits       pp = 1 -> 0
    Source       Qi et al. 2023, "Zero Bubble Pipeline Parallelism", section 5.4, appendices B (before the first B) and
                 H (the tail), arXiv:2401.10241
    Checked      Table 5 of the paper: the row of ZB-2P whose micro-batches do not fill the tail and the one whose first
                 B comes late; the other ten print what is left below a forward pass (tests/test_zero_bubble.py)
    """
    filled_s = (maximum(1, minimum(n_microbatches, 2 * pp / kept_share)) - 1) * weight_gradient_s
    tail_s = (pp - 1) * (forward_s + input_gradient_s + 2 * transfer_s) - filled_s
    held = minimum(n_microbatches, 2 * pp)
    return maximum(tail_s, first_backward_bubble_time(forward_s, input_gradient_s, pp, held, transfer_s))


@formula
def zb_v_bubble_time(forward_s, input_gradient_s, weight_gradient_s, pp, n_microbatches, transfer_s=0):
    r"""Bubble of ZB-V: two chunks a rank in the shape of a V, with the memory of 1F1B.

    .. math:: T = \max\left(0, \frac{(p - 1)(t_F + t_B) - (\min(2 m, 2 p - 1) - 1) t_W}{2} + 6 (p - 1) \tau\right)

    Symbols      t_F  forward_s [s] forward of one micro-batch on one rank, both chunks;
                 t_B  input_gradient_s [s] gradient of the rank's inputs;
                 t_W  weight_gradient_s [s] gradient of the rank's weights;  p  pp [1] pipeline ranks;
                 m  n_microbatches [1] micro-batches per step;
                 \tau  transfer_s [s] one message to the next rank;  returns [s]
    Assumptions  equal chunks; 2 (p - 1) chunks of weight gradients fill head and tail; the six messages a boundary are
                 read off Table 8 of the source, whose other columns give its times (within 4 % of three rows)
    Valid for    forward_s >= 0; input_gradient_s >= 0; weight_gradient_s >= 0; pp >= 1; n_microbatches >= 1;
                 transfer_s >= 0
    Monotone     forward_s +; input_gradient_s +; weight_gradient_s -; n_microbatches -; transfer_s +
    Limits       pp = 1 -> 0
    Source       Qi et al. 2025, "Synergistic Tensor and Pipeline Parallelism", comparison of schedules (p - 1 times
                 t_F + t_B - 2 t_W of a chunk), arXiv:2510.27257; the schedule in Qi et al. 2023, section 6 and
                 Table 8, arXiv:2401.10241v2
    Checked      no bubble for equal passes (table of the authors' repository)
    """
    filled_s = (minimum(2 * n_microbatches, 2 * pp - 1) - 1) * weight_gradient_s
    idle_s = (pp - 1) * (forward_s + input_gradient_s) - filled_s
    return maximum(0, idle_s / 2 + 6 * (pp - 1) * transfer_s)


@formula
def v_half_bubble_time(forward_s, input_gradient_s, weight_gradient_s, pp, n_microbatches, transfer_s=0):
    r"""Bubble of V-Half: two chunks a rank in the shape of a V, with half the memory of 1F1B.

    .. math:: T = \frac{p - 1}{2} \left(t_F + t_B + \min(2 \hat t - \min(t_W, \hat t), t_F + t_B) + 12 \tau\right)
              + m \max\left(0, 2 \hat t + 4 \tau - (t_F + t_B + t_W)\right), \quad \hat t = \max(t_F, t_B)

    Symbols      t_F  forward_s [s] forward of one micro-batch on one rank, both chunks;
                 t_B  input_gradient_s [s] gradient of the rank's inputs;
                 t_W  weight_gradient_s [s] gradient of the rank's weights;  p  pp [1] pipeline ranks;
                 m  n_microbatches [1] micro-batches per step;
                 \tau  transfer_s [s] one message to the next rank;  returns [s]
    Assumptions  equal chunks; a cycle of four chunk passes between neighbours sets the pace where F and B differ by
                 more than W; messages before the first B as ZB-V
    Valid for    forward_s >= 0; input_gradient_s >= 0; weight_gradient_s >= 0; pp >= 1; n_microbatches >= 1;
                 transfer_s >= 0; fails for fewer micro-batches than ranks
    Monotone     pp +; transfer_s +
    Source       Qi et al. 2024, "Pipeline Parallelism with Controllable Memory", section 3.2 (3 p chunk passes where
                 all take equal time), Table 9 (the offsets of the schedule), arXiv:2405.15362; for passes that differ
                 derived from those offsets
    Checked      half the 1F1B bubble for equal passes (table of the authors' repository); a replay of the published
                 offsets, 4 to 16 ranks, passes that differ (tests/test_zero_bubble.py)
    """
    longer_s = maximum(forward_s, input_gradient_s)
    both_s = forward_s + input_gradient_s
    wave_s = both_s + minimum(2 * longer_s - minimum(weight_gradient_s, longer_s), both_s) + 12 * transfer_s
    repeating_s = maximum(0, 2 * longer_s + 4 * transfer_s - both_s - weight_gradient_s)
    return (pp - 1) / 2 * wave_s + n_microbatches * minimum(1, pp - 1) * repeating_s


@formula
def v_min_bubble_time(forward_s, input_gradient_s, weight_gradient_s, pp, n_microbatches, transfer_s=0):
    r"""Bubble of V-Min: two chunks a rank in the shape of a V, with a third of the memory of 1F1B.

    .. math:: T = (p - 1)(t_F + t_B + 6 \tau) + m \max\left(0, 3 \max(t_F, t_B) + 6 \tau - (t_F + t_B + t_W)\right)

    Symbols      t_F  forward_s [s] forward of one micro-batch on one rank, both chunks;
                 t_B  input_gradient_s [s] gradient of the rank's inputs;
                 t_W  weight_gradient_s [s] gradient of the rank's weights;  p  pp [1] pipeline ranks;
                 m  n_microbatches [1] micro-batches per step;
                 \tau  transfer_s [s] one message to the next rank;  returns [s]
    Assumptions  equal chunks; a cycle of six chunk passes between neighbours sets the pace unless the passes take equal
                 time, so the bubble grows with the micro-batches
    Valid for    forward_s >= 0; input_gradient_s >= 0; weight_gradient_s >= 0; pp >= 1; n_microbatches >= 1;
                 transfer_s >= 0; fails for fewer micro-batches than ranks
    Monotone     pp +; weight_gradient_s -; n_microbatches +; transfer_s +
    Source       Qi et al. 2024, "Pipeline Parallelism with Controllable Memory", section 3.2 (4 p chunk passes where
                 all take equal time), section 3.3 (a bubble that repeats), Table 8 (the offsets of the schedule),
                 arXiv:2405.15362; for passes that differ derived from those offsets
    Checked      two thirds of the 1F1B bubble for equal passes (table of the authors' repository); a replay of the
                 published offsets, 4 to 16 ranks, passes that differ (tests/test_zero_bubble.py)
    """
    both_s = forward_s + input_gradient_s
    repeating_s = maximum(0, 3 * maximum(forward_s, input_gradient_s) + 6 * transfer_s - both_s - weight_gradient_s)
    return (pp - 1) * (both_s + 6 * transfer_s) + n_microbatches * minimum(1, pp - 1) * repeating_s


@formula
def dualpipe_bubble_time(forward_s, input_gradient_s, weight_gradient_s, pp, transfer_s=0):
    r"""Bubble of DualPipe, which feeds micro-batches from both ends and holds two copies of the weights.

    .. math:: T = \max\left(0, \frac p 2 - 1\right) \left(\max(0, t_F + 2 t_B - t_W) + 4 \tau\right)

    Symbols      t_F  forward_s [s] forward of one micro-batch on one stage;
                 t_B  input_gradient_s [s] gradient of the stage's input;
                 t_W  weight_gradient_s [s] gradient of the stage's weights;  p  pp [1] pipeline ranks, even;
                 \tau  transfer_s [s] one message to the next stage;  returns [s]
    Assumptions  forward and backward passes that run side by side take as long as one after the other (the source gains
                 what communication this hides); messages of the first waves as in ZB-H1; 2 p micro-batches or more
    Valid for    forward_s >= 0; input_gradient_s >= 0; weight_gradient_s >= 0; pp >= 1; transfer_s >= 0
    Monotone     forward_s +; input_gradient_s +; weight_gradient_s -; pp +; transfer_s +
    Limits       pp = 1 -> 0; pp = 2 -> 0
    Source       DeepSeek-AI 2024, "DeepSeek-V3 Technical Report", Table 2 (p / 2 - 1 times F&B + B - 3 W, its B being
                 our B and W together), arXiv:2412.19437
    Checked      the published form with F&B = F + B
    """
    idle_s = maximum(0, forward_s + 2 * input_gradient_s - weight_gradient_s) + 4 * transfer_s
    return maximum(0, pp / 2 - 1) * idle_s


@formula
def in_flight_microbatches_zb_h1(n_microbatches, pp, stage=0, kept_share=1):
    r"""Micro-batches' worth of activations that a stage holds at the peak of ZB-H1.

    .. math:: k = \min(m, p - i) + \mu \min(i, \max(0, m - p + i))

    Symbols      m  n_microbatches [1] micro-batches per step;  p  pp [1] pipeline stages;
                 i  stage [1] 0 is the first;  \mu  kept_share [1] bytes that wait for W over those that wait for B;
                 returns [1]
    Valid for    n_microbatches >= 1; pp >= 1; stage >= 0; kept_share >= 0; fails from stage pp on
    Monotone     n_microbatches +; kept_share +
    Source       Qi et al. 2023, "Zero Bubble Pipeline Parallelism", section 2.3: (p - i + 1) M_B + (i - 1) M_W with
                 the first stage i = 1, arXiv:2401.10241
    """
    before = minimum(n_microbatches, pp - stage)
    return before + kept_share * minimum(stage, maximum(0, n_microbatches - before))


@formula
def in_flight_microbatches_zb_h2(n_microbatches, pp, stage=0, kept_share=1):
    r"""Micro-batches' worth of activations that a stage holds at the peak of ZB-H2.

    .. math:: k = k_B + \mu \min(2 i, m - k_B), \quad k_B = \min(m, 2 p - 1 - 2 i)

    Symbols      m  n_microbatches [1] micro-batches per step;  p  pp [1] pipeline stages;
                 i  stage [1] 0 is the first;  \mu  kept_share [1] bytes that wait for W over those that wait for B;
                 returns [1]
    Valid for    n_microbatches >= 1; pp >= 1; stage >= 0; kept_share >= 0; fails from stage pp on
    Monotone     n_microbatches +; kept_share +
    Source       Qi et al. 2023, "Zero Bubble Pipeline Parallelism", section 2.3: (2 p - 2 i + 1) M_B + (2 i - 2) M_W
                 with the first stage i = 1, arXiv:2401.10241
    """
    before = minimum(n_microbatches, 2 * pp - 1 - 2 * stage)
    return before + kept_share * minimum(2 * stage, n_microbatches - before)


@formula
def in_flight_microbatches_zb_2p(n_microbatches, pp):
    r"""Micro-batches' worth of activations that ZB-2P may hold on any stage: the search uses up its limit.

    .. math:: k = \min(m, 2 p)

    Symbols      m  n_microbatches [1] micro-batches per step;  p  pp [1] pipeline stages;  returns [1]
    Assumptions  weight gradients wait for a bubble until the memory is full, on every stage
    Valid for    n_microbatches >= 1; pp >= 1
    Monotone     n_microbatches +; pp +
    Source       Qi et al. 2023, "Zero Bubble Pipeline Parallelism", sections 3.1 and 5.1, arXiv:2401.10241 (ZB-1P: p)
    """
    return minimum(n_microbatches, 2 * pp)


@formula
def in_flight_microbatches_v_half(n_microbatches, pp):
    r"""Micro-batches' worth of activations that every rank holds at the peak of V-Half.

    .. math:: k = \min\left(m, \left\lfloor \frac{p + 2}{2} \right\rfloor\right)

    Symbols      m  n_microbatches [1] micro-batches per step;  p  pp [1] pipeline ranks;  returns [1]
    Valid for    n_microbatches >= 1; pp >= 1
    Monotone     n_microbatches +; pp +
    Source       huggingface.co/spaces/sail/pipeline-parallelism-with-controllable-memory, table by the authors of Qi et
                 al. 2024, "Pipeline Parallelism with Controllable Memory", arXiv:2405.15362
    Checked      a replay of the published offsets finds its bubble at this memory (tests/test_zero_bubble.py)
    """
    return minimum(n_microbatches, floor((pp + 2) / 2))


@formula
def in_flight_microbatches_v_min(n_microbatches, pp):
    r"""Micro-batches' worth of activations that every rank holds at the peak of V-Min.

    .. math:: k = \min\left(m, \left\lfloor \frac{p + 4}{3} \right\rfloor\right)

    Symbols      m  n_microbatches [1] micro-batches per step;  p  pp [1] pipeline ranks;  returns [1]
    Valid for    n_microbatches >= 1; pp >= 1
    Monotone     n_microbatches +; pp +
    Source       huggingface.co/spaces/sail/pipeline-parallelism-with-controllable-memory, table by the authors of Qi et
                 al. 2024, "Pipeline Parallelism with Controllable Memory", arXiv:2405.15362
    Checked      a replay of the published offsets finds its bubble at this memory (tests/test_zero_bubble.py)
    """
    return minimum(n_microbatches, floor((pp + 4) / 3))


@formula
def in_flight_microbatches_dualpipe(n_microbatches, pp, kept_share=1):
    r"""Micro-batches' worth of activations of a stage that a rank holds at the peak of DualPipe, both directions.

    .. math:: k = \max\left(\min(m, p + 1), \frac{\mu p}{2}, p - 1 + \mu \min(1, \tfrac p 2 - 1)\right)

    Symbols      m  n_microbatches [1] micro-batches per step, both directions together;
                 p  pp [1] pipeline ranks, even;  \mu  kept_share [1] bytes that wait for W over those that wait for B;
                 returns [1]
    Assumptions  2 p micro-batches or more; weight gradients wait in the warm-up for one pass, and at the end on the
                 middle ranks for as many as there are ranks in half of the pipeline
    Valid for    n_microbatches >= 1; pp >= 2; kept_share >= 0
    Monotone     n_microbatches +; pp +; kept_share +
    Limits       kept_share = 0 -> min(n_microbatches, pp + 1)
    Source       DeepSeek-AI 2024, "DeepSeek-V3 Technical Report", Table 2 (p + 1), arXiv:2412.19437; what waits for
                 weight gradients by the order of passes of github.com/deepseek-ai/DualPipe
    """
    waiting = maximum(kept_share * pp / 2, pp - 1 + kept_share * minimum(1, pp / 2 - 1))
    return maximum(minimum(n_microbatches, pp + 1), waiting)


@formula
def weight_gradient_operand_bytes(input_elements, output_elements, bytes_per_input=2, bytes_per_gradient=2):
    r"""Bytes that products keep between the gradient of their inputs and that of their weights.

    .. math:: n = w_x N_x + w_g N_y

    Symbols      N_x  input_elements [1] elements of the products' inputs;
                 N_y  output_elements [1] elements of their outputs' gradients;
                 w_x  bytes_per_input [B] precision in which inputs are kept;
                 w_g  bytes_per_gradient [B] precision of the gradients;  returns [B]
    Valid for    input_elements >= 0; output_elements >= 0
    Monotone     input_elements +; output_elements +; bytes_per_input +; bytes_per_gradient +
    Source       Qi et al. 2023, "Zero Bubble Pipeline Parallelism", section 2.3 and Table 1, arXiv:2401.10241
    Checked      Table 1 of the paper: 32 s b h a layer of GPT, 7 of inputs and 9 of gradients
    """
    return bytes_per_input * input_elements + bytes_per_gradient * output_elements
