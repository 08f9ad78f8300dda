//! The module `qvec._native`: each function borrows its arrays, releases the GIL and calls the core.

use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyUntypedArrayMethods};
use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::arguments::{
    Floats, IdsArgument, Matrix, TextArgument, VectorsArgument, code_rows, elements, embedding_column, require,
    require_planes, sample, sized, text,
};
use crate::copy::{Batch, Encoder, Ids};
use crate::decode::Decoder;
use crate::hamming::Rows;
use crate::project::Projection;

create_exception!(qvec._native, BadRow, PyValueError, "Raised with args (row, reason).");

impl From<crate::vectors::BadRow> for PyErr {
    fn from(bad: crate::vectors::BadRow) -> PyErr {
        BadRow::new_err((bad.row, bad.reason))
    }
}

#[pyfunction]
fn normalize<'py>(
    py: Python<'py>,
    vectors: VectorsArgument<'py>,
    dimensions: usize,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let vectors = vectors.view(dimensions)?;
    let out = PyArray2::zeros(py, [vectors.rows(), dimensions], false);
    let mut filled = out.readwrite();
    let slice = filled.as_slice_mut()?;
    py.detach(|| crate::vectors::normalize(&vectors, slice))?;
    Ok(out)
}

#[pyfunction]
fn bad_rows(
    py: Python<'_>,
    vectors: VectorsArgument<'_>,
    dimensions: usize,
    cosine: bool,
) -> PyResult<Vec<(usize, String)>> {
    let vectors = vectors.view(dimensions)?;
    let found = py.detach(|| crate::vectors::bad_rows(&vectors, cosine));
    Ok(found.into_iter().map(|bad| (bad.row, bad.reason)).collect())
}

#[pyfunction]
fn quantize<'py>(
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
    let out = PyArray2::zeros(py, [vectors.rows(), planes * crate::planes::width(threshold.len())], false);
    let mut filled = out.readwrite();
    let slice = filled.as_slice_mut()?;
    py.detach(|| crate::quantize::quantize(&vectors, threshold, radius, planes, cosine, slice))?;
    Ok(out)
}

#[pyfunction]
fn centre<'py>(
    py: Python<'py>,
    vectors: VectorsArgument<'py>,
    threshold: Floats<'py>,
    cosine: bool,
    half: bool,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let threshold = elements(&threshold)?;
    let vectors = vectors.view(threshold.len())?;
    let out = PyArray2::zeros(py, [vectors.rows(), threshold.len()], false);
    let mut filled = out.readwrite();
    let slice = filled.as_slice_mut()?;
    py.detach(|| crate::centre::centre(&vectors, threshold, cosine, half, slice))?;
    Ok(out)
}

#[pyfunction]
fn ternary<'py>(py: Python<'py>, codes: Matrix<'py, u8>, dimensions: usize) -> PyResult<Bound<'py, PyArray2<u8>>> {
    let width = crate::planes::width(dimensions.max(1));
    let rows = code_rows(&codes, 4 * width)?;
    let out = PyArray2::zeros(py, [codes.shape()[0], 2 * width], false);
    let mut filled = out.readwrite();
    let slice = filled.as_slice_mut()?;
    py.detach(|| crate::planes::ternary(rows.bytes, rows.stride, width, slice));
    Ok(out)
}

/// Weights have as many rows as there are biases, a multiple of 8, and codes eight planes of their columns.
#[pyfunction]
fn project<'py>(
    py: Python<'py>,
    codes: Matrix<'py, u8>,
    weights: Matrix<'py, i8>,
    bias: PyReadonlyArray1<'py, i32>,
) -> PyResult<Bound<'py, PyArray2<u8>>> {
    let [bits, dimensions] = [weights.shape()[0], weights.shape()[1]];
    require(bits >= 8 && bits % 8 == 0, || format!("weights: {bits} rows found, a multiple of 8 wanted"))?;
    require(dimensions >= 1, || "weights: no columns found, at least 1 wanted".to_string())?;
    let projection = Projection::new(elements(&weights)?, sized(&bias, "bias", bits)?);
    let stride = 8 * crate::planes::width(dimensions);
    let rows = code_rows(&codes, stride)?;
    require(rows.stride == stride, || format!("codes: {} bytes a row found, {stride} wanted", rows.stride))?;
    let out = PyArray2::zeros(py, [codes.shape()[0], bits / 8], false);
    let mut filled = out.readwrite();
    let slice = filled.as_slice_mut()?;
    py.detach(|| projection.project(rows.bytes, slice));
    Ok(out)
}

/// Calls `work` with a decoder, having checked that the arrays fit each other and the codes.
fn with_decoder<T>(
    codes: &Matrix<'_, u8>,
    [threshold, radius, deviation]: [&Floats<'_>; 3],
    planes: usize,
    work: impl FnOnce(Rows, &Decoder) -> PyResult<T>,
) -> PyResult<T> {
    require_planes(planes)?;
    let threshold = elements(threshold)?;
    require(!threshold.is_empty(), || "threshold: no elements found, at least 1 wanted".to_string())?;
    let radius = sized(radius, "radius", threshold.len())?;
    let deviation = sized(deviation, "deviation", threshold.len())?;
    let rows = code_rows(codes, planes * crate::planes::width(threshold.len()))?;
    work(rows, &Decoder::new(threshold, radius, deviation, planes))
}

#[pyfunction]
fn dequantize<'py>(
    py: Python<'py>,
    codes: Matrix<'py, u8>,
    threshold: Floats<'py>,
    radius: Floats<'py>,
    deviation: Floats<'py>,
    planes: usize,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    with_decoder(&codes, [&threshold, &radius, &deviation], planes, |rows, decoder| {
        let out = PyArray2::zeros(py, [codes.shape()[0], threshold.len()], false);
        let mut filled = out.readwrite();
        let slice = filled.as_slice_mut()?;
        py.detach(|| crate::decode::dequantize(rows.bytes, rows.stride, decoder, slice));
        Ok(out)
    })
}

#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "those of the Python function")]
fn score<'py>(
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
    with_decoder(&codes, [&threshold, &radius, &deviation], planes, |rows, decoder| {
        let out = PyArray2::zeros(py, [count, codes.shape()[0]], false);
        let mut filled = out.readwrite();
        let slice = filled.as_slice_mut()?;
        py.detach(|| crate::decode::score(rows.bytes, rows.stride, queries, decoder, by_length, slice))?;
        Ok(out)
    })
}

#[pyfunction]
fn hamming<'py>(
    py: Python<'py>,
    codes: Matrix<'py, u8>,
    queries: Matrix<'py, u8>,
) -> PyResult<Bound<'py, PyArray2<i32>>> {
    let queries_rows = code_rows(&queries, 1)?;
    let rows = code_rows(&codes, queries_rows.stride)?;
    let out = PyArray2::zeros(py, [queries.shape()[0], codes.shape()[0]], false);
    let mut filled = out.readwrite();
    let slice = filled.as_slice_mut()?;
    py.detach(|| crate::hamming::hamming(rows, queries_rows, slice));
    Ok(out)
}

type Nearest<'py> = (Bound<'py, PyArray2<i64>>, Bound<'py, PyArray2<i32>>);

#[pyfunction]
fn hamming_top_k<'py>(
    py: Python<'py>,
    codes: Matrix<'py, u8>,
    queries: Matrix<'py, u8>,
    k: usize,
) -> PyResult<Nearest<'py>> {
    let queries_rows = code_rows(&queries, 1)?;
    let rows = code_rows(&codes, queries_rows.stride)?;
    let shape = [queries.shape()[0], k.min(codes.shape()[0])];
    let (nearest, distances) = (PyArray2::zeros(py, shape, false), PyArray2::zeros(py, shape, false));
    if shape[1] > 0 {
        let (mut nearest, mut distances) = (nearest.readwrite(), distances.readwrite());
        let (nearest, distances) = (nearest.as_slice_mut()?, distances.as_slice_mut()?);
        py.detach(|| crate::hamming::nearest(rows, queries_rows, shape[1], nearest, distances));
    }
    Ok((nearest, distances))
}

#[pyclass(module = "qvec._native")]
struct Statistics(crate::stats::Statistics);

#[pymethods]
impl Statistics {
    #[new]
    #[pyo3(signature = (dimensions, threshold=None))]
    fn new(dimensions: usize, threshold: Option<Floats<'_>>) -> PyResult<Self> {
        require(dimensions >= 1, || "dimensions: 0 found, at least 1 wanted".to_string())?;
        let threshold = threshold.as_ref().map(elements).transpose()?;
        let found = threshold.map_or(dimensions, |threshold| threshold.len());
        require(found == dimensions, || format!("threshold: {found} values found, {dimensions} wanted"))?;
        Ok(Statistics(crate::stats::Statistics::new(dimensions, threshold.map(Into::into))))
    }

    fn update(&mut self, py: Python<'_>, vectors: Matrix<'_, f32>) -> PyResult<()> {
        let (columns, wanted) = (vectors.shape()[1], self.0.dimensions());
        require(columns == wanted, || format!("vectors: {columns} columns found, {wanted} wanted"))?;
        let vectors = elements(&vectors)?;
        Ok(py.detach(|| self.0.update(vectors))?)
    }

    fn merge(&mut self, other: &Statistics) -> PyResult<()> {
        let (found, wanted) = (other.0.dimensions(), self.0.dimensions());
        require(found == wanted, || format!("statistics: {found} dimensions found, {wanted} wanted"))?;
        require(self.0.threshold() == other.0.threshold(), || "statistics: their thresholds differ".to_string())?;
        self.0.merge(&other.0);
        Ok(())
    }

    #[getter]
    fn count(&self) -> u64 {
        self.0.count()
    }

    #[getter]
    fn mean<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        PyArray1::from_slice(py, self.0.mean())
    }

    #[getter]
    fn variance<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        PyArray1::from_vec(py, self.0.variance())
    }

    #[getter]
    fn minimum<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        PyArray1::from_slice(py, self.0.minimum())
    }

    #[getter]
    fn maximum<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        PyArray1::from_slice(py, self.0.maximum())
    }

    #[getter]
    fn absolute_deviation<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let wanted = || PyValueError::new_err("absolute_deviation: no threshold was given to measure it from");
        Ok(PyArray1::from_vec(py, self.0.absolute_deviation().ok_or_else(wanted)?))
    }
}

#[pyfunction]
fn deviation_quantile<'py>(
    py: Python<'py>,
    vectors: Matrix<'py, f32>,
    threshold: Floats<'py>,
    quantile: f64,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    require((0.0..=1.0).contains(&quantile), || format!("quantile: {quantile} found, 0 to 1 wanted"))?;
    let threshold = elements(&threshold)?;
    let vectors = sample(&vectors, threshold)?;
    Ok(PyArray1::from_vec(py, py.detach(|| crate::deviation::deviation_quantile(vectors, threshold, quantile))?))
}

#[pyfunction]
#[pyo3(signature = (ids, codes, embedding, half, document, metadata, learned=None))]
#[expect(clippy::too_many_arguments, reason = "those of the Python function")]
fn encode_copy<'py>(
    py: Python<'py>,
    ids: IdsArgument<'py>,
    codes: Matrix<'py, u8>,
    embedding: Option<VectorsArgument<'py>>,
    half: bool,
    document: Option<TextArgument<'py>>,
    metadata: Option<TextArgument<'py>>,
    learned: Option<Matrix<'py, u8>>,
) -> PyResult<Bound<'py, PyBytes>> {
    let rows = codes.shape()[0];
    let ids = match &ids {
        IdsArgument::Integers(ids) => Ids::Integers(sized(ids, "ids", rows)?),
        IdsArgument::Text(ids) => Ids::Text(text(ids, "ids", rows)?),
    };
    let embedding = match &embedding {
        Some(vectors) => Some(embedding_column(vectors, half, rows)?),
        None => None,
    };
    let document = document.as_ref().map(|column| text(column, "document", rows)).transpose()?;
    let metadata = metadata.as_ref().map(|column| text(column, "metadata", rows)).transpose()?;
    let codes = code_rows(&codes, 1)?;
    let learned = match &learned {
        Some(bits) => {
            let found = bits.shape()[0];
            require(found == rows, || format!("learned: {found} rows found, {rows} wanted"))?;
            Some(code_rows(bits, 1)?)
        }
        None => None,
    };
    let batch = Batch { rows, ids, codes, learned, embedding, document, metadata };
    let encoder = py.detach(|| Encoder::new(&batch))?;
    PyBytes::new_with(py, encoder.length(), |out| Ok(py.detach(|| encoder.write(out))?))
}

#[pymodule]
mod _native {
    #[pymodule_export]
    use super::{
        BadRow, Statistics, bad_rows, centre, dequantize, deviation_quantile, encode_copy, hamming, hamming_top_k,
        normalize, project, quantize, score, ternary,
    };

    #[pymodule_export]
    const COPY_HEADER: &[u8] = crate::copy::HEADER;

    #[pymodule_export]
    const COPY_TRAILER: &[u8] = crate::copy::TRAILER;
}
