"""Max-margin token selection of one softmax attention layer: problem, token SVM, dynamics and theory.

Names live in the rooms, in the order in which data flows: ``problem``, ``datasets``, ``attention``, ``svm``,
``steps``, ``dynamics``, ``theory``, ``measure``.
"""
