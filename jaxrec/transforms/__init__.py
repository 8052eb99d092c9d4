"""Composable transforms: of score gradients while training (`training`), of tables at test time (`adjustment`)."""
