"""Drawing tokens by their probabilities, for models that draw one value after another."""

import torch
from torch import Tensor

from models.parts.layers import at_least_float32


def restricted(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Logits (..., tokens) of the distribution that is drawn from, in float32 at least: -inf for ruled-out tokens.

    The temperature, above 0, divides the logits; below 1 it makes likely tokens likelier. Then the `top_k` likeliest
    tokens stay (Fan, Lewis & Dauphin 2018); of these, the fewest likeliest whose probabilities add up to `top_p`, above
    0 and at most 1 (Holtzman et al. 2020, section 3.1). The likeliest always stays. Equally likely tokens at the limit
    of `top_k` all stay; at that of `top_p`, those with the lower index. None sets no limit.
    """
    logits = at_least_float32(logits) / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None and top_p < 1:
        ranked, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
        before = ranked.cumsum(-1) - ranked
        dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= top_p)
        logits = logits.masked_fill(dropped, -torch.inf)
    return logits


def chosen(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Tokens drawn by inverting the cumulative distribution of logits (..., tokens): int64 (...), never of logit -inf.

    The uniform numbers (...), in [0, 1), are one per drawn token, so that it does not depend on its batch.
    """
    cumulative = logits.softmax(-1).cumsum(-1)
    # Rounding may leave the total slightly off 1: the numbers are scaled to it, and the last possible token ends it.
    reached = cumulative <= uniforms.to(cumulative)[..., None] * cumulative[..., -1:]
    return torch.minimum(reached.sum(-1), cumulative.argmax(-1))
