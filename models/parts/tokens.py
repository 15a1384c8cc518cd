"""Choosing tokens by their probabilities: what models that draw one value after another share."""

import torch
from torch import Tensor


def restricted(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Logits of the distribution that is drawn from: -inf where a token is ruled out, float32 at least.

    First the temperature divides the logits; then the `top_k` likeliest tokens stay (Fan, Lewis & Dauphin 2018); of
    these, the fewest likeliest whose probabilities add up to `top_p` (Holtzman et al. 2020, section 3.1). The likeliest
    always stays. Equally likely tokens at the border of `top_k` all stay; at that of `top_p`, those of lower index.

    Args:
        logits: (..., tokens).
        temperature: above 0; below 1 the likely become likelier.
        top_k: at least 1; no such limit where left out.
        top_p: above 0, at most 1; no such limit where left out.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
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
    """Tokens drawn by the inverse of their cumulative distribution: int64 (...), never one whose logit is -inf.

    Args:
        logits: (..., tokens).
        uniforms: (...), in [0, 1): one number a token that is drawn, so that it does not depend on its batch.
    """
    cumulative = logits.softmax(-1).cumsum(-1)
    # Rounding may leave the total a little off 1: the numbers are stretched to it, and the last possible token ends it.
    reached = cumulative <= uniforms.to(cumulative)[..., None] * cumulative[..., -1:]
    return torch.minimum(reached.sum(-1), cumulative.argmax(-1))
