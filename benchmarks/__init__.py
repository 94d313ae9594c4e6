"""One file per claim, named as the claim; both sides in one run, interleaved, medians."""
