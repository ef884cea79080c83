from spheroseg.cli import main

main()
