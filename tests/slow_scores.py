"""The scores' definitions, written out slowly."""


def average_precision_slowly(scores, target):
    """Sum of precision times the step of recall, from the highest threshold down."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        found = [t for s, t in zip(scores, target, strict=True) if s >= threshold]
        total += (sum(found) / sum(target) - recall) * sum(found) / len(found)
        recall = sum(found) / sum(target)
    return total


def auc_slowly(scores, target):
    """Share of pairs of a positive and a negative that are in order, ties counting half."""
    pairs = [
        1.0 if positive > negative else 0.5 if positive == negative else 0.0
        for positive, is_positive in zip(scores, target, strict=True)
        for negative, is_negative in zip(scores, target, strict=True)
        if is_positive and not is_negative
    ]
    return sum(pairs) / len(pairs)


def f1_slowly(predicted, target):
    hits = sum(p and t for p, t in zip(predicted, target, strict=True))
    precision = hits / sum(predicted) if any(predicted) else 0.0
    recall = hits / sum(target)
    return 2 * precision * recall / (precision + recall) if hits else 0.0
