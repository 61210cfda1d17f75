"""Scores that say how much a sample helps: DeltaLoss (the paper's equation 1), image gain, and random.

DeltaLoss of a sample x is log p_large(x) - log p_small(x), the logarithm of how much likelier the large model finds the
answer tokens than the small one. Both find them likely (too easy) or both do not (too hard): near 0. The small model
is right and the large one is not (distracting, often a wrong answer): negative. The large model is right and the small
one is not (helpful: hard for a small model, and learnable): positive. So the top of the list is what to train on.

The sum over the answer's tokens is equation 1 as it is written, p being the probability of the whole answer; it is
`score`. It favours long answers, where differences add up; the mean, `delta_mean`, takes that out and lets answers of
one token compete with paragraphs. Both are stored, and selecting asks which.

Read data.py (the samples by number), spelling.py (which tokens are the answers'), packed.py and padded.py (the two ways
to run a model, whose common words are in batches.py), models.py (a model by name), passes.py (one pass of one model,
resumable), criteria.py (passes to scores) and on_ray.py.
"""
