"""Readers of segmentation sets in their usual folder forms, all with one small type: `SegmentationDataset`.

`open_dataset` knows them by name: coco-stuff, ade20k-150, ade20k-847, pascal-context-59, pascal-context-459,
voc-20, cityscapes, and folder, the project's own form.
"""
