//! Batches of rows in the binary COPY format of Postgres.

use numpy::{PyReadonlyArray1, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use qvec_copy::{Batch, Embedding, Encoder, Ids, Text};
use qvec_core::hamming::Rows;

use crate::arguments::{Matrix, VectorsArgument, code_rows, elements, require, sized};
use crate::bad_row;

/// Buffers of an Arrow large_string array: offsets, data, validity.
type TextArgument<'py> = (PyReadonlyArray1<'py, i64>, PyReadonlyArray1<'py, u8>, Option<PyReadonlyArray1<'py, bool>>);

#[derive(FromPyObject)]
pub enum IdsArgument<'py> {
    Integers(PyReadonlyArray1<'py, i64>),
    Text(TextArgument<'py>),
}

#[pyfunction]
#[pyo3(signature = (ids, codes, embedding, half, document, metadata, learned=None))]
#[expect(clippy::too_many_arguments, reason = "the Python function has as many")]
pub fn encode_copy<'py>(
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
    let batch = Batch {
        rows,
        ids: match &ids {
            IdsArgument::Integers(ids) => Ids::Integers(sized(ids, "ids", rows)?),
            IdsArgument::Text(ids) => Ids::Text(text_column(ids, "ids", rows)?),
        },
        codes: code_rows(&codes, 1)?,
        learned: learned.as_ref().map(|bits| learned_column(bits, rows)).transpose()?,
        embedding: embedding.as_ref().map(|vectors| embedding_column(vectors, half, rows)).transpose()?,
        document: document.as_ref().map(|column| text_column(column, "document", rows)).transpose()?,
        metadata: metadata.as_ref().map(|column| text_column(column, "metadata", rows)).transpose()?,
    };
    let encoder = py.detach(|| Encoder::new(&batch)).map_err(bad_row)?;
    PyBytes::new_with(py, encoder.length(), |out| py.detach(|| encoder.write(out)).map_err(bad_row))
}

/// A text column of `rows` rows, whose offsets must ascend within its data.
fn text_column<'a>((offsets, data, valid): &'a TextArgument<'_>, name: &str, rows: usize) -> PyResult<Text<'a>> {
    let offsets = sized(offsets, &format!("{name} offsets"), rows + 1)?;
    let data = elements(data)?;
    let ascend = offsets[0] >= 0 && offsets.is_sorted() && offsets[rows] as u64 <= data.len() as u64;
    require(ascend, || format!("{name}: offsets do not ascend within its {} bytes", data.len()))?;
    let valid = valid.as_ref().map(|valid| sized(valid, &format!("{name} validity"), rows)).transpose()?;
    Ok(Text { offsets, data, valid })
}

fn embedding_column<'a>(vectors: &'a VectorsArgument<'_>, half: bool, rows: usize) -> PyResult<Embedding<'a>> {
    let (found, columns) = (vectors.rows(), vectors.columns());
    require(found == rows, || format!("embedding: {found} rows found, {rows} wanted"))?;
    require(columns <= i16::MAX as usize, || format!("embedding: {columns} dimensions found, 32767 at most"))?;
    Ok(Embedding { vectors: vectors.view(columns)?, half })
}

fn learned_column<'a>(bits: &'a Matrix<'_, u8>, rows: usize) -> PyResult<Rows<'a>> {
    let found = bits.shape()[0];
    require(found == rows, || format!("learned: {found} rows found, {rows} wanted"))?;
    code_rows(bits, 1)
}
