//! The real gate on virtual time: a crowd with cookies (or without) in front of a model site whose slots are those of `rules::slots`.

mod doors;
mod fairness;
mod line;
mod surge;
mod world;
