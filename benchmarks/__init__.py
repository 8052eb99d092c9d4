"""Speed and memory, measured side by side: `python -m benchmarks.compare`.

    compare   the command                      suite     what is compared, with its targets
    contest   contenders take turns            worker    a contender, in a process of its own
    ours      this library's contenders        peers     implicit, Cornac, LightFM, PyTorch, LensKit
    machine   what machine, and its limits     inputs    what all of them are given
    rows      the form of a result, `met`      report    table, JSON, Markdown
    memory, scaling, cold, quality             the questions that need a run of their own
    test_parts                                 pytest-benchmark for the library's own parts

NOTES.md says how each figure is defined and why each peer is set as it is.
"""
