"""The first run on a GPU: builds the CUDA kernels by themselves, checks and measures them. See
first_run.sh.
"""
