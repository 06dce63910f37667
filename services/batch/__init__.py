"""Batch jobs: any model of a repository over files, a table or a bucket, to Parquet."""
