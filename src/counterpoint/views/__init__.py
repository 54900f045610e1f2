"""One row -> the views of it that are contrasted. Every random draw comes from the generator that is passed in."""
