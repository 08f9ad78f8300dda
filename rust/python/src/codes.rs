//! Codes: made from vectors, read as other codes, decoded, scored and compared.

use numpy::{PyArray2, PyArrayMethods, PyReadonlyArray1, PyUntypedArrayMethods};
use pyo3::prelude::*;
use qvec_core::decode::Decoder;
use qvec_core::projection::Projection;
use qvec_core::{decode, hamming as core_hamming, planes as core_planes, quantize as core_quantize};

use crate::arguments::{Floats, Matrix, VectorsArgument, code_rows, elements, filled, require, sized};

#[pyfunction]
pub fn quantize<'py>(
    py: Python<'py>,
    vectors: VectorsArgument<'py>,
    threshold: Floats<'py>,
    radius: Floats<'py>,
    planes: usize,
    cosine: bool,
) -> PyResult<Bound<'py, PyArray2<u8>>> {
    require_planes(planes)?;
    let threshold = elements(&threshold)?;
    let radius = sized(&radius, "radius", threshold.len())?;
    let vectors = vectors.view(threshold.len())?;
    let row_bytes = planes * core_planes::width(threshold.len());
    filled(py, [vectors.rows(), row_bytes], |out| {
        core_quantize::quantize(&vectors, threshold, radius, planes, cosine, out)
    })
}

#[pyfunction]
pub fn compare<'py>(
    py: Python<'py>,
    codes: Matrix<'py, u8>,
    dimensions: usize,
    thresholds: Vec<u8>,
) -> PyResult<Bound<'py, PyArray2<u8>>> {
    require(!thresholds.is_empty() && !thresholds.contains(&0), || {
        format!("thresholds: {thresholds:?} found, numbers from 1 to 255 wanted")
    })?;
    let width = core_planes::width(dimensions.max(1));
    let rows = code_rows(&codes, core_planes::planes_compared(&thresholds) * width)?;
    filled(py, [codes.shape()[0], thresholds.len() * width], |out| {
        core_planes::compare(rows.bytes, rows.stride, width, &thresholds, out);
        Ok(())
    })
}

/// Weights have as many rows as there are biases, a multiple of 8; codes have eight planes of as many dimensions as
/// weights have columns.
#[pyfunction]
pub fn project<'py>(
    py: Python<'py>,
    codes: Matrix<'py, u8>,
    weights: Matrix<'py, i8>,
    bias: PyReadonlyArray1<'py, i32>,
) -> PyResult<Bound<'py, PyArray2<u8>>> {
    let [bits, dimensions] = [weights.shape()[0], weights.shape()[1]];
    require(bits >= 8 && bits % 8 == 0, || format!("weights: {bits} rows found, a multiple of 8 wanted"))?;
    require(dimensions >= 1, || "weights: no columns found, at least 1 wanted".to_string())?;
    let projection = Projection::new(elements(&weights)?, sized(&bias, "bias", bits)?);
    let stride = 8 * core_planes::width(dimensions);
    let rows = code_rows(&codes, stride)?;
    require(rows.stride == stride, || format!("codes: {} bytes a row found, {stride} wanted", rows.stride))?;
    filled(py, [codes.shape()[0], bits / 8], |out| {
        projection.project(rows.bytes, out);
        Ok(())
    })
}

#[pyfunction]
pub fn dequantize<'py>(
    py: Python<'py>,
    codes: Matrix<'py, u8>,
    threshold: Floats<'py>,
    radius: Floats<'py>,
    deviation: Floats<'py>,
    planes: usize,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let decoder = decoder(&threshold, &radius, &deviation, planes)?;
    let rows = code_rows(&codes, planes * core_planes::width(threshold.len()))?;
    filled(py, [codes.shape()[0], threshold.len()], |out| {
        decode::dequantize(rows.bytes, rows.stride, &decoder, out);
        Ok(())
    })
}

#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the Python function has as many")]
pub fn score<'py>(
    py: Python<'py>,
    codes: Matrix<'py, u8>,
    queries: Matrix<'py, f32>,
    threshold: Floats<'py>,
    radius: Floats<'py>,
    deviation: Floats<'py>,
    planes: usize,
    by_length: bool,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let [count, columns] = [queries.shape()[0], queries.shape()[1]];
    let dimensions = threshold.len();
    require(columns == dimensions, || format!("queries: {columns} columns found, {dimensions} wanted"))?;
    let queries = elements(&queries)?;
    let decoder = decoder(&threshold, &radius, &deviation, planes)?;
    let rows = code_rows(&codes, planes * core_planes::width(dimensions))?;
    filled(py, [count, codes.shape()[0]], |out| {
        decode::score(rows.bytes, rows.stride, queries, &decoder, by_length, out)
    })
}

#[pyfunction]
pub fn hamming<'py>(
    py: Python<'py>,
    codes: Matrix<'py, u8>,
    queries: Matrix<'py, u8>,
) -> PyResult<Bound<'py, PyArray2<i32>>> {
    let query_rows = code_rows(&queries, 1)?;
    let rows = code_rows(&codes, query_rows.stride)?;
    filled(py, [queries.shape()[0], codes.shape()[0]], |out| {
        core_hamming::hamming(rows, query_rows, out);
        Ok(())
    })
}

type RowsAndDistances<'py> = (Bound<'py, PyArray2<i64>>, Bound<'py, PyArray2<i32>>);

#[pyfunction]
pub fn hamming_top_k<'py>(
    py: Python<'py>,
    codes: Matrix<'py, u8>,
    queries: Matrix<'py, u8>,
    k: usize,
) -> PyResult<RowsAndDistances<'py>> {
    let query_rows = code_rows(&queries, 1)?;
    let rows = code_rows(&codes, query_rows.stride)?;
    let shape = [queries.shape()[0], k.min(codes.shape()[0])];
    let (nearest, distances) = (PyArray2::zeros(py, shape, false), PyArray2::zeros(py, shape, false));
    if shape[1] > 0 {
        let (mut nearest, mut distances) = (nearest.readwrite(), distances.readwrite());
        let (nearest, distances) = (nearest.as_slice_mut()?, distances.as_slice_mut()?);
        py.detach(|| core_hamming::nearest(rows, query_rows, shape[1], nearest, distances));
    }
    Ok((nearest, distances))
}

fn require_planes(planes: usize) -> PyResult<()> {
    let most = core_planes::MAX_PLANES;
    require((1..=most).contains(&planes), || format!("planes: {planes} found, 1 to {most} wanted"))
}

fn decoder<'a>(
    threshold: &'a Floats<'_>,
    radius: &Floats<'_>,
    deviation: &Floats<'_>,
    planes: usize,
) -> PyResult<Decoder<'a>> {
    require_planes(planes)?;
    let threshold = elements(threshold)?;
    require(!threshold.is_empty(), || "threshold: no elements found, at least 1 wanted".to_string())?;
    let radius = sized(radius, "radius", threshold.len())?;
    let deviation = sized(deviation, "deviation", threshold.len())?;
    Ok(Decoder::new(threshold, radius, deviation, planes))
}
