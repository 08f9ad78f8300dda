//! Statistics of each dimension of float32 vectors.

use numpy::{PyArray1, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use qvec_core::{quantiles, statistics as core};

use crate::arguments::{Floats, Matrix, elements, require};
use crate::bad_row;

#[pyclass(module = "qvec._native")]
pub struct Statistics(core::Statistics);

#[pymethods]
impl Statistics {
    #[new]
    #[pyo3(signature = (dimensions, threshold=None))]
    fn new(dimensions: usize, threshold: Option<Floats<'_>>) -> PyResult<Self> {
        require(dimensions >= 1, || "dimensions: 0 found, at least 1 wanted".to_string())?;
        let threshold = threshold.as_ref().map(elements).transpose()?;
        let found = threshold.map_or(dimensions, |threshold| threshold.len());
        require(found == dimensions, || format!("threshold: {found} values found, {dimensions} wanted"))?;
        Ok(Statistics(core::Statistics::new(dimensions, threshold.map(Into::into))))
    }

    fn update(&mut self, py: Python<'_>, vectors: Matrix<'_, f32>) -> PyResult<()> {
        let (columns, wanted) = (vectors.shape()[1], self.0.dimensions());
        require(columns == wanted, || format!("vectors: {columns} columns found, {wanted} wanted"))?;
        let vectors = elements(&vectors)?;
        py.detach(|| self.0.update(vectors)).map_err(bad_row)
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
        let missing = || PyValueError::new_err("absolute_deviation: no threshold was given to measure it from");
        Ok(PyArray1::from_vec(py, self.0.absolute_deviation().ok_or_else(missing)?))
    }
}

#[pyfunction]
pub fn deviation_quantile<'py>(
    py: Python<'py>,
    vectors: Matrix<'py, f32>,
    threshold: Floats<'py>,
    quantile: f64,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    require((0.0..=1.0).contains(&quantile), || format!("quantile: {quantile} found, 0 to 1 wanted"))?;
    let threshold = elements(&threshold)?;
    let (rows, columns, wanted) = (vectors.shape()[0], vectors.shape()[1], threshold.len());
    require(columns == wanted && wanted >= 1, || format!("vectors: {columns} columns found, {wanted} wanted"))?;
    require(rows >= 1, || "vectors: no rows found, at least 1 wanted".to_string())?;
    let vectors = elements(&vectors)?;
    let found = py.detach(|| quantiles::deviation_quantile(vectors, threshold, quantile)).map_err(bad_row)?;
    Ok(PyArray1::from_vec(py, found))
}
