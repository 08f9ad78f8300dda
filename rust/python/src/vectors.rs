//! Vectors before they are quantized: normalized, checked, centred.

use numpy::PyArray2;
use pyo3::prelude::*;
use qvec_core::{centre as core_centre, vectors as core};

use crate::arguments::{Floats, VectorsArgument, elements, filled};

#[pyfunction]
pub fn normalize<'py>(
    py: Python<'py>,
    vectors: VectorsArgument<'py>,
    dimensions: usize,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let vectors = vectors.view(dimensions)?;
    filled(py, [vectors.rows(), dimensions], |out| core::normalize(&vectors, out))
}

#[pyfunction]
pub fn bad_rows(
    py: Python<'_>,
    vectors: VectorsArgument<'_>,
    dimensions: usize,
    cosine: bool,
) -> PyResult<Vec<(usize, String)>> {
    let vectors = vectors.view(dimensions)?;
    let found = py.detach(|| core::bad_rows(&vectors, cosine));
    Ok(found.into_iter().map(|bad| (bad.row, bad.reason)).collect())
}

#[pyfunction]
pub fn centre<'py>(
    py: Python<'py>,
    vectors: VectorsArgument<'py>,
    threshold: Floats<'py>,
    cosine: bool,
    half: bool,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let threshold = elements(&threshold)?;
    let vectors = vectors.view(threshold.len())?;
    filled(py, [vectors.rows(), threshold.len()], |out| core_centre::centre(&vectors, threshold, cosine, half, out))
}
