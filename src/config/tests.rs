use super::*;

const BARS: &str = include_str!("../../pipelines/bars.toml");

#[test]
fn the_shipped_pipeline_becomes_a_plan() {
    let pipeline = Pipeline::parse("bars.toml", BARS, &|_| None).unwrap_or_else(|e| panic!("{e}"));
    assert!(pipeline.warnings.is_empty(), "{}", pipeline.warnings);
}
