from gendistill.cli import main

main()
