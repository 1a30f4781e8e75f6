//! To come.
/// P
#[derive(Debug)]
pub struct Pages;
