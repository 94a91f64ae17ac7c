"""Images onto machines over SSH, started once by a boot loader that is proved to do it once; see FLASH.md."""
