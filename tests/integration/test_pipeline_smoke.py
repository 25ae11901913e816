from tests.pipeline import Pipeline, document
def test_smoke(pipeline: Pipeline) -> None:
    pipeline.upsert(document("a", "one", "two", file=b"x"), document("b", "one", business_tag="t"))
    pipeline.run()
    pipeline.assert_in_step()
    pipeline.upsert(document("a", "one", "three", file=b"y"))
    pipeline.delete("b")
    pipeline.run()
    pipeline.assert_in_step()
