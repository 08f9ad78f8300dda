//! Arrays that come from and go to Python, as slices. Python has validated shapes; checks here prevent panics.

use half::f16;
use numpy::ndarray::Dimension;
use numpy::{
    Element, PyArray2, PyArrayMethods, PyReadonlyArray, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use qvec_core::hamming::Rows;
use qvec_core::vectors::{BadRow, Elements, Vectors};

use crate::bad_row;

pub type Floats<'py> = PyReadonlyArray1<'py, f32>;
pub type Matrix<'py, T> = PyReadonlyArray2<'py, T>;

#[derive(FromPyObject)]
pub enum VectorsArgument<'py> {
    F32(Matrix<'py, f32>),
    F16(Matrix<'py, f16>),
}

impl VectorsArgument<'_> {
    pub fn rows(&self) -> usize {
        match self {
            VectorsArgument::F32(array) => array.shape()[0],
            VectorsArgument::F16(array) => array.shape()[0],
        }
    }

    pub fn columns(&self) -> usize {
        match self {
            VectorsArgument::F32(array) => array.shape()[1],
            VectorsArgument::F16(array) => array.shape()[1],
        }
    }

    /// The vectors, cut to their first `dimensions` dimensions.
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
}

/// Raises ValueError with `message` unless the condition holds.
pub fn require(holds: bool, message: impl FnOnce() -> String) -> PyResult<()> {
    if holds { Ok(()) } else { Err(PyValueError::new_err(message())) }
}

/// The elements of an array in row-major order.
pub fn elements<'a, T: Element, D: Dimension>(array: &'a PyReadonlyArray<'_, T, D>) -> PyResult<&'a [T]> {
    require(array.is_c_contiguous(), || "array: C-contiguous wanted".to_string())?;
    Ok(array.as_slice()?)
}

/// The elements of an array, which must have `wanted` of them.
pub fn sized<'a, T: Element>(array: &'a PyReadonlyArray1<'_, T>, name: &str, wanted: usize) -> PyResult<&'a [T]> {
    let found = elements(array)?;
    require(found.len() == wanted, || format!("{name}: {} elements found, {wanted} wanted", found.len()))?;
    Ok(found)
}

/// Rows of codes, which must have at least `least` bytes each.
pub fn code_rows<'a>(codes: &'a Matrix<'_, u8>, least: usize) -> PyResult<Rows<'a>> {
    let stride = codes.shape()[1];
    require(stride >= least.max(1), || format!("codes: {stride} bytes a row found, {} wanted", least.max(1)))?;
    Ok(Rows { bytes: elements(codes)?, stride })
}

/// A new array of the given shape, filled by `work` without the GIL.
pub fn filled<'py, T: Element>(
    py: Python<'py>,
    shape: [usize; 2],
    work: impl FnOnce(&mut [T]) -> Result<(), BadRow> + Send,
) -> PyResult<Bound<'py, PyArray2<T>>> {
    let out = PyArray2::zeros(py, shape, false);
    let mut writable = out.readwrite();
    let slice = writable.as_slice_mut()?;
    py.detach(|| work(slice)).map_err(bad_row)?;
    Ok(out)
}
