//! The arrays that Python passes, checked and borrowed as slices. Callers have validated shapes; what is checked again
//! here is what would otherwise panic.

use half::f16;
use numpy::ndarray::Dimension;
use numpy::{Element, PyReadonlyArray, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::copy::{Embedding, Text};
use crate::hamming::Rows;
use crate::vectors::{Elements, Vectors};

pub type Floats<'py> = PyReadonlyArray1<'py, f32>;
pub type Matrix<'py, T> = PyReadonlyArray2<'py, T>;

#[derive(FromPyObject)]
pub enum VectorsArgument<'py> {
    F32(Matrix<'py, f32>),
    F16(Matrix<'py, f16>),
}

impl VectorsArgument<'_> {
    pub fn columns(&self) -> usize {
        match self {
            VectorsArgument::F32(array) => array.shape()[1],
            VectorsArgument::F16(array) => array.shape()[1],
        }
    }

    pub fn view(&self, dimensions: usize) -> PyResult<Vectors<'_>> {
        let columns = self.columns();
        require(dimensions >= 1, || "dimensions: 0 found, at least 1 wanted".to_string())?;
        require(columns >= dimensions, || format!("vectors: {columns} columns found, {dimensions} wanted"))?;
        let elements = match self {
            VectorsArgument::F32(array) => Elements::F32(elements(array)?),
            VectorsArgument::F16(array) => Elements::F16(elements(array)?),
        };
        Ok(Vectors::new(elements, columns, dimensions))
    }

    pub fn rows(&self) -> usize {
        match self {
            VectorsArgument::F32(array) => array.shape()[0],
            VectorsArgument::F16(array) => array.shape()[0],
        }
    }
}

pub type TextArgument<'py> =
    (PyReadonlyArray1<'py, i64>, PyReadonlyArray1<'py, u8>, Option<PyReadonlyArray1<'py, bool>>);

#[derive(FromPyObject)]
pub enum IdsArgument<'py> {
    Integers(PyReadonlyArray1<'py, i64>),
    Text(TextArgument<'py>),
}

pub fn require(holds: bool, message: impl FnOnce() -> String) -> PyResult<()> {
    if holds { Ok(()) } else { Err(PyValueError::new_err(message())) }
}

/// The elements of an array in row-major order.
pub fn elements<'a, T: Element, D: Dimension>(array: &'a PyReadonlyArray<'_, T, D>) -> PyResult<&'a [T]> {
    require(array.is_c_contiguous(), || "array: C-contiguous wanted".to_string())?;
    Ok(array.as_slice()?)
}

/// The elements of an array that must have `wanted` of them.
pub fn sized<'a, T: Element>(array: &'a PyReadonlyArray1<'_, T>, name: &str, wanted: usize) -> PyResult<&'a [T]> {
    let found = elements(array)?;
    require(found.len() == wanted, || format!("{name}: {} elements found, {wanted} wanted", found.len()))?;
    Ok(found)
}

/// Rows of codes, which must be at least `least` bytes long.
pub fn code_rows<'a>(codes: &'a Matrix<'_, u8>, least: usize) -> PyResult<Rows<'a>> {
    let stride = codes.shape()[1];
    require(stride >= least.max(1), || format!("codes: {stride} bytes a row found, {} wanted", least.max(1)))?;
    Ok(Rows { bytes: elements(codes)?, stride })
}

pub fn require_planes(planes: usize) -> PyResult<()> {
    require((1..=8).contains(&planes), || format!("planes: {planes} found, 1 to 8 wanted"))
}

/// A text column of `rows` rows whose offsets ascend within its data.
pub fn text<'a>((offsets, data, valid): &'a TextArgument<'_>, name: &str, rows: usize) -> PyResult<Text<'a>> {
    let offsets = sized(offsets, &format!("{name} offsets"), rows + 1)?;
    let data = elements(data)?;
    let ascend = offsets[0] >= 0 && offsets.is_sorted() && offsets[rows] as u64 <= data.len() as u64;
    require(ascend, || format!("{name}: offsets do not ascend within its {} bytes", data.len()))?;
    let valid = valid.as_ref().map(|valid| sized(valid, &format!("{name} validity"), rows)).transpose()?;
    Ok(Text { offsets, data, valid })
}

/// The elements of vectors of as many columns as the threshold, at least one row of them.
pub fn sample<'a>(vectors: &'a Matrix<'_, f32>, threshold: &[f32]) -> PyResult<&'a [f32]> {
    let (rows, columns) = (vectors.shape()[0], vectors.shape()[1]);
    let wanted = threshold.len();
    require(columns == wanted && wanted >= 1, || format!("vectors: {columns} columns found, {wanted} wanted"))?;
    require(rows >= 1, || "vectors: no rows found, at least 1 wanted".to_string())?;
    elements(vectors)
}

pub fn embedding_column<'a>(vectors: &'a VectorsArgument<'_>, half: bool, rows: usize) -> PyResult<Embedding<'a>> {
    let (found, columns) = (vectors.rows(), vectors.columns());
    require(found == rows, || format!("embedding: {found} rows found, {rows} wanted"))?;
    require(columns <= i16::MAX as usize, || format!("embedding: {columns} dimensions found, 32767 at most"))?;
    Ok(Embedding { vectors: vectors.view(columns)?, half })
}
