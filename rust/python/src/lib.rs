//! The Python module `qvec._native`. Each function borrows its arrays, releases the GIL and calls a function of the core.

mod arguments;
mod codes;
mod copy;
mod statistics;
mod vectors;

use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

create_exception!(qvec._native, BadRow, PyValueError, "A row that cannot be used; its args are (row, reason).");

/// The Python exception of a bad row.
fn bad_row(bad: qvec_core::vectors::BadRow) -> PyErr {
    BadRow::new_err((bad.row, bad.reason))
}

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::BadRow;
    #[pymodule_export]
    use super::codes::{compare, dequantize, hamming, hamming_top_k, project, quantize, score};
    #[pymodule_export]
    use super::copy::encode_copy;
    #[pymodule_export]
    use super::statistics::{Statistics, deviation_quantile};
    #[pymodule_export]
    use super::vectors::{bad_rows, centre, normalize};

    #[pymodule_export]
    const COPY_HEADER: &[u8] = qvec_copy::HEADER;

    #[pymodule_export]
    const COPY_TRAILER: &[u8] = qvec_copy::TRAILER;
}
