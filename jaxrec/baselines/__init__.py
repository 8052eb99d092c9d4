"""Published methods, one file each, assembled from the library's parts; each file has the formula and its source.

    by name      build(name, train, backbone, ...) -> Method, fit_method; options(name)
                 METHODS, the `Entry` of each name; put one of your own there
    trained      ips (with C, CN, CNSR), macr, dice, pd (and PDA), cause, samreg, invcf, paac, ssm (uniform or in-batch,
                 and logQ), ccl, zerosum, adap_tau, eql, ipl, bc_loss, popgo, resn; dap and ppac, which are BPR with
                 strengths at test time: `build(settings, train, ...) -> Method`, from the file's `SETTINGS`
    test time    pc, tde, ddc: `adjustment(...)`, and `arm(...)` to tune its strengths
    shared       base: what a method is, and which settings it takes; parts: steps; branch, strata
"""

from jaxrec.baselines.base import Method, plain, start, top_k
from jaxrec.baselines.registry import METHODS, Entry, build, fit_method, options

__all__ = ["METHODS", "Entry", "Method", "build", "fit_method", "options", "plain", "start", "top_k"]
