// What only a measurement on a GPU can decide, a constant each, with the value that a model of
// bytes in flight gives; csrc/cuda/README.md has the model and the experiment that decides. A build
// may name another value (-DOCTET_TUNE_BLOCKS_PER_SM=3), which is how the experiments are made.
#pragma once

// Blocks of a row that the compiler is to leave registers for on each SM, in the kernels that keep
// two chunks a thread (rows of 8K to 16K elements) and only quantize.
#ifndef OCTET_TUNE_BLOCKS_PER_SM
#define OCTET_TUNE_BLOCKS_PER_SM 2
#endif

// The most threads of a block: a row of more than as many chunks has two chunks a thread.
#ifndef OCTET_TUNE_BLOCK_THREADS
#define OCTET_TUNE_BLOCK_THREADS 512
#endif

// The longest row that a warp takes by itself, in chunks of 16 elements a thread.
#ifndef OCTET_TUNE_WARP_CHUNKS
#define OCTET_TUNE_WARP_CHUNKS 2
#endif
