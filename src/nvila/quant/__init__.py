"""Post-training quantisation: the vision tower in W8A8, the decoder in W4A16 by AWQ (paper, section 2.4).

Read options.py (what can be chosen), calibrate.py (the samples, and what is watched while they run), w8a8.py and awq.py
(one layer each), run.py (layer after layer, resumable), export.py (the folder that is written), load.py (plain tensors
out of such a folder).
"""
