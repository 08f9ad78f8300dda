//! The hot paths of qvec. `python` and `arguments` are all of PyO3; the other modules know nothing of Python.

mod arguments;
mod centre;
mod copy;
mod decode;
mod deviation;
mod hamming;
mod planes;
mod pool;
mod project;
mod python;
mod quantize;
mod stats;
mod vectors;
