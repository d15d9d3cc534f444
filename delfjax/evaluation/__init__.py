"""Scores of ranked lists, by the rules of the published protocols.

- :mod:`~delfjax.evaluation.average_precision`: average precision of one ranked list, and what
  happens to its junk (:func:`~delfjax.evaluation.average_precision.junk_free_ranks`).
- :mod:`~delfjax.evaluation.labelled_protocols`: Oxford, Paris, their revisited versions, Holidays:
  which labels are positive and which are junk.
- :mod:`~delfjax.evaluation.gldv2_protocol`: Google-Landmarks v2, retrieval and recognition.
- :mod:`~delfjax.evaluation.landmark_curve`: precision and recall by position, as in the paper.
- :mod:`~delfjax.evaluation.dataset_protocols`: which protocols a dataset has; start here to score
  one.
- :mod:`~delfjax.evaluation.protocol`: identifiers of rules, and results that carry them.
- :mod:`~delfjax.evaluation.significance`: intervals of means, and tests between two systems.
- :mod:`~delfjax.evaluation.look_alikes` and :mod:`~delfjax.evaluation.mining_scores`: confusions
  of landmarks that look alike, and agreement of mined landmarks with true ones.
"""
