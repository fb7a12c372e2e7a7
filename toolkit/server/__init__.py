"""`gstk serve`: interactive segmentation over HTTP, for viewers with an nnInteractive client and for the browser."""
