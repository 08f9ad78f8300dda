//! Codes of vectors and what is computed from them. Nothing here knows of Python or of a database: inputs and outputs
//! are slices, and large inputs are spread over the cores.

pub mod centre;
pub mod decode;
pub mod hamming;
pub mod planes;
pub mod pool;
pub mod projection;
pub mod quantiles;
pub mod quantize;
pub mod statistics;
pub mod vectors;
