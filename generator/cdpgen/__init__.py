"""The generator: `.proto` files, rules and a lock in; typed Parquet writers out."""
