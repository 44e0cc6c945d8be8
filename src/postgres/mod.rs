//! PostgreSQL's own vocabulary.
