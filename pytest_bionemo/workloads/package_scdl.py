"""bionemo-scdl does what it is for: a matrix of cells is written, opened again, and the same."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

CELLS, GENES = 10, 20


def run(folder: str) -> dict[str, Any]:
    """Write a sparse matrix as h5ad, make a dataset of it, and read that from disk.

    :param folder: where the files go, about 1 MB.
    :return: the number of ``rows`` and ``columns`` of the reopened dataset, how many values are ``stored`` in it and
        how many were ``written``, how many elements are ``differing``, and the rows of ``batches`` of four.
    """
    import numpy as np
    from torch.utils.data import DataLoader

    anndata = import_module("anndata")
    csr_matrix = import_module("scipy.sparse").csr_matrix
    dataset_of = import_module("bionemo.scdl.io.single_cell_memmap_dataset").SingleCellMemMapDataset
    collate = import_module("bionemo.scdl.util.torch_dataloader_utils").collate_sparse_matrix_batch
    random = np.random.default_rng(1)
    counts = random.integers(1, 9, (CELLS, GENES)) * (random.random((CELLS, GENES)) < 0.3)
    written = counts.astype(np.float32)
    source = Path(folder, "cells.h5ad")
    anndata.AnnData(csr_matrix(written)).write_h5ad(source)
    dataset_of(str(Path(folder, "dataset")), str(source), use_X_not_raw=True).save()
    dataset = dataset_of(str(Path(folder, "dataset")))
    read = np.zeros_like(written)
    for row in range(min(CELLS, dataset.number_of_rows())):
        values, columns = dataset.get_row(row)[0]
        read[row, columns] = values
    batches = DataLoader(dataset, batch_size=4, collate_fn=collate)
    return {
        "rows": int(dataset.number_of_rows()),
        "columns": [int(number) for number in dataset.number_of_variables()],
        "stored": int(dataset.number_nonzero_values()),
        "written": int(np.count_nonzero(written)),
        "differing": int(np.count_nonzero(read != written)),
        "batches": [int(batch.shape[0]) for batch in batches],
    }
